#include "coordinator/html.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

static const char UNKNOWN[] = "–";

// Bytes of the character at `s`, 0 if they are no UTF-8 (overlong, a surrogate, beyond U+10FFFF).
static int decode(const unsigned char *s, uint32_t *c) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    *c = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if (s[i] >> 6 != 2) return 0;
        *c = *c << 6 | (s[i] & 63);
    }
    return n > 0 && *c >= least[n] && *c <= 0x10ffff && *c >> 11 != 27 ? n : 0;
}

// https://www.w3.org/TR/xml/#charsets
static bool is_character(uint32_t c) {
    return c == '\t' || c == '\n' || (c >= 0x20 && c != 0xfffe && c != 0xffff && !(c >= 0x7f && c < 0xa0));
}

void html_text(FILE *out, const char *text) {
    if (!text) text = UNKNOWN;
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        uint32_t c;
        int n = decode(s, &c);
        if (n == 0 || !is_character(c)) fputs("\xef\xbf\xbd", out);
        else if (c == '&') fputs("&amp;", out);
        else if (c == '<') fputs("&lt;", out);
        else if (c == '>') fputs("&gt;", out);
        else if (c == '"') fputs("&quot;", out);
        else fwrite(s, 1, (size_t)n, out);
        s += n ? n : 1;
    }
}

const char *html_count(int64_t x, char out[HTML_FIGURE]) {
    char digits[HTML_FIGURE];
    if (x < 0) return strcpy(out, UNKNOWN);
    int n = snprintf(digits, sizeof digits, "%lld", (long long)x);
    char *p = out;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) *p++ = ',';
        *p++ = digits[i];
    }
    *p = 0;
    return out;
}

const char *html_short(double x, char out[HTML_FIGURE]) {
    static const char *const units[] = {"", "k", "M", "G", "T", "P"};
    int unit = 0;
    if (!isfinite(x)) return strcpy(out, UNKNOWN);
    for (; fabs(x) >= 999.5 && unit < 5; x /= 1000) unit++;
    snprintf(out, HTML_FIGURE, "%.3g%s", x, units[unit]);
    return out;
}

const char *html_duration(double seconds, char out[HTML_FIGURE]) {
    if (!(seconds >= 0) || seconds > 1e12) return strcpy(out, UNKNOWN);
    long long s = (long long)seconds;
    if (seconds < 59.95) snprintf(out, HTML_FIGURE, "%.1f s", seconds);
    else if (s < 3600) snprintf(out, HTML_FIGURE, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400) snprintf(out, HTML_FIGURE, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else snprintf(out, HTML_FIGURE, "%lldd%02lldh", s / 86400, s / 3600 % 24);
    return out;
}

const char *html_real(const char *format, double x, char out[HTML_FIGURE]) {
    if (!isfinite(x) || fabs(x) > 1e15) return strcpy(out, UNKNOWN);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(out, HTML_FIGURE, format, x);
#pragma GCC diagnostic pop
    return out;
}

const char *html_time(double seconds, char out[HTML_FIGURE]) {
    struct tm tm;
    if (!(seconds > 0) || seconds > 1e11) return strcpy(out, UNKNOWN);
    time_t t = (time_t)seconds;
    if (!gmtime_r(&t, &tm) || strftime(out, HTML_FIGURE, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        return strcpy(out, UNKNOWN);
    return out;
}
