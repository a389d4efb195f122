// yxanul bench loader: argv[0] is "loader".
#pragma once
int cli_bench_loader(int argc, char **argv);
