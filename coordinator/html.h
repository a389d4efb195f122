// Text of a page that is HTML and well-formed XML at once, so that any reader of either can check it.
#pragma once
#include <stdint.h>
#include <stdio.h>

enum { HTML_FIGURE = 32 };

// Writes text from outside: markup is escaped; what is no UTF-8, or no character of XML, becomes U+FFFD. NULL: "–".
void html_text(FILE *out, const char *text);
// 1234567 as "1,234,567"; negative (not known): "–".
const char *html_count(int64_t x, char out[HTML_FIGURE]);
// 1234567 as "1.23M".
const char *html_short(double x, char out[HTML_FIGURE]);
// "12.3 s", "5m07s", "3h12m", "2d03h"; not finite or negative: "–".
const char *html_duration(double seconds, char out[HTML_FIGURE]);
// With printf's format for one double; not finite: "–".
const char *html_real(const char *format, double x, char out[HTML_FIGURE]);
// Seconds since 1970 as "2025-01-31 12:34:56 UTC"; 0 or nonsense: "–".
const char *html_time(double seconds, char out[HTML_FIGURE]);
