/* SPDX-License-Identifier: MIT */
/* options.c: see options.h. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cases.h"

#define SECONDS 1.0
#define SECONDS_QUICK 0.3
#define ROUNDS 3
#define ROUNDS_QUICK 1

static const char usage[] =
    "belfry-bench: belfry and what people would use instead, side by side in one run.\n"
    "\n"
    "  What is measured\n"
    "    --quick            fewer cases, one short round: within three minutes\n"
    "    --workload W       only this one: pingpong, stream, many, processes, idle, connect,\n"
    "                       memory or neighbour                                    (all)\n"
    "    --system S         only this one and the limits of the machine; may be repeated    (all)\n"
    "    --connections N    only the cases with that many connections              (all)\n"
    "    --seconds S        per measurement; an idle server is watched five times as long\n"
    "                       (1; with --quick 0.3)\n"
    "    --rounds N         measurements per row, of which the median is shown     (3; with --quick 1)\n"
    "    --corrupt-one      spoil one message of each system and workload; all must notice\n"
    "    --list             the cases and the systems, and nothing is run\n"
    "\n"
    "  Report\n"
    "    --json FILE        the rows and the targets, besides the tables\n"
    "    --plots DIR        a plot per workload, as SVG\n"
    "    --require-targets  a target that is not met is a failure\n"
    "    --help             this\n"
    "\n"
    "Exit status: 0 when all that was asked for has run; 1 when a system failed; 64 for a command line\n"
    "that makes no sense; 69 when this machine has fewer than two cores.\n";

enum option_code {
    OPT_QUICK = 256,
    OPT_WORKLOAD,
    OPT_SYSTEM,
    OPT_CONNECTIONS,
    OPT_SECONDS,
    OPT_ROUNDS,
    OPT_CORRUPT_ONE,
    OPT_LIST,
    OPT_JSON,
    OPT_PLOTS,
    OPT_REQUIRE_TARGETS,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"quick", no_argument, NULL, OPT_QUICK},
    {"workload", required_argument, NULL, OPT_WORKLOAD},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"rounds", required_argument, NULL, OPT_ROUNDS},
    {"corrupt-one", no_argument, NULL, OPT_CORRUPT_ONE},
    {"list", no_argument, NULL, OPT_LIST},
    {"json", required_argument, NULL, OPT_JSON},
    {"plots", required_argument, NULL, OPT_PLOTS},
    {"require-targets", no_argument, NULL, OPT_REQUIRE_TARGETS},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("belfry-bench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("; --help lists the options\n", stderr);
    va_end(arguments);
    return EXIT_USAGE;
}

static int read_count(const char *name, const char *text, unsigned long high, uint32_t *out)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < 1 || value > high)
        return complain("--%s wants a whole number from 1 to %lu, not '%s'", name, high, text);
    *out = (uint32_t)value;
    return -1;
}

static int read_seconds(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(*out) || *out < 0.01 || *out > 3600)
        return complain("--seconds wants a number from 0.01 to 3600, not '%s'", text);
    return -1;
}

static int read_workload(const char *text, int *out)
{
    *out = workload_find(text);
    return *out >= 0 ? -1 : complain("--workload: '%s' is none", text);
}

static int read_system(struct options *o, const char *text)
{
    if (o->systems == OPTIONS_SYSTEMS_MAX)
        return complain("--system was given more than %d times", OPTIONS_SYSTEMS_MAX);
    o->system[o->systems++] = text;
    return -1;
}

static int read_json(struct options *o, const char *path)
{
    if (o->json != NULL)
        return complain("--json was given twice");
    o->json = fopen(path, "we");
    return o->json != NULL ? -1 : complain("--json cannot write '%s': %s", path, strerror(errno));
}

static int read_plots(struct options *o, const char *path)
{
    struct stat st;
    o->plots = path;
    if (mkdir(path, 0777) == 0 || (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
        return -1;
    return complain("--plots cannot make the directory '%s': %s", path, strerror(errno));
}

static int read_option(struct options *o, int code, const char *text, char **argv)
{
    switch (code) {
    case OPT_QUICK:
        o->quick = true;
        return -1;
    case OPT_WORKLOAD:
        return read_workload(text, &o->workload);
    case OPT_SYSTEM:
        return read_system(o, text);
    case OPT_CONNECTIONS:
        return read_count("connections", text, 1000000, &o->connections);
    case OPT_SECONDS:
        return read_seconds(text, &o->seconds);
    case OPT_ROUNDS:
        return read_count("rounds", text, 1000, &o->rounds);
    case OPT_CORRUPT_ONE:
        o->corrupt_one = true;
        return -1;
    case OPT_LIST:
        o->list = true;
        return -1;
    case OPT_JSON:
        return read_json(o, text);
    case OPT_PLOTS:
        return read_plots(o, text);
    case OPT_REQUIRE_TARGETS:
        o->require_targets = true;
        return -1;
    case OPT_HELP:
        fputs(usage, stdout);
        return 0;
    case ':':
        return complain("'%s' wants a value", argv[optind - 1]);
    default:
        return complain("'%s' is not an option", argv[optind - 1]);
    }
}

int options_parse(struct options *o, int argc, char **argv)
{
    int rc = -1;
    *o = (struct options){.workload = -1};
    opterr = 0;
    optind = 1;
    for (int code; rc < 0 && (code = getopt_long(argc, argv, ":", long_options, NULL)) != -1;)
        rc = read_option(o, code, optarg, argv);
    if (rc < 0 && optind < argc)
        rc = complain("'%s' is one word too many", argv[optind]);
    if (o->seconds == 0)
        o->seconds = o->quick ? SECONDS_QUICK : SECONDS;
    if (o->rounds == 0)
        o->rounds = o->quick ? ROUNDS_QUICK : ROUNDS;
    return rc;
}
