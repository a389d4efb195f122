"""The compiler's report of every CUDA kernel, for each kind of card: nothing spilled to memory (but for SPILLS), and portable kernels within the shared
memory a block has on an RTX 4090. (Dynamic shared memory is not in the report: the host code names it, and checks it.)"""
import glob, os, re, sys

BUILD = os.environ.get("YX_BUILD", "build")
MAX_SHARED, MAX_REGISTERS = 99 * 1024, 255
# Bytes that a kernel may spill where the alternative is slower: with three blocks on a multiprocessor, attention's forward pass has two
# registers too few on sm_90a; none on sm_89.
SPILLS = {("attention_forward", "sm_90a"): 8}
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                   r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)", re.S)


def main():
    reports = sorted(glob.glob(f"{BUILD}/CMakeFiles/yxanul_cuda.dir/kernels/cuda/*.cu.o.ptxas"))
    if not reports:
        print("skipped: no CUDA in this build")
        sys.exit(77)
    kernels, worst = 0, (0, "", "")
    for path in reports:
        text = open(path).read()
        found = ENTRY.findall(text)
        assert len(found) == text.count("Compiling entry function"), path
        for name, card, stack, stores, loads, registers, rest in found:
            allowed = max((n for (kernel, of), n in SPILLS.items() if kernel in name and of == card), default=0)
            assert int(stores) <= allowed and int(loads) <= allowed, f"{name} spills for {card}: {stores} bytes out, {loads} in ({path})"
            shared = re.search(r"(\d+) bytes smem", rest)
            if "sm90" not in os.path.basename(path):
                assert int(shared.group(1) if shared else 0) <= MAX_SHARED, (name, card, rest)
            assert int(registers) <= MAX_REGISTERS, (name, card, registers)
            kernels += 1
            worst = max(worst, (int(registers), name, card))
    assert kernels, "no kernel in the reports"
    print(f"{kernels} kernels in {len(reports)} files: no spills but those allowed; most registers {worst[0]} ({worst[1]}, {worst[2]})")


main()
