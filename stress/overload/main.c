/* SPDX-License-Identifier: MIT */
/*
 * belfry-overload: what attackers, and clients and servers in trouble, cost the others.
 *
 * One scenario after the other (scenarios.c), each with a server of its own, a victim and guests (people.c), and whoever
 * attacks them (attack.c), all of them processes on one stage (stage.c). It fails when something is wrong: a call failed,
 * somebody was thrown out, a slot was lost, a wake was rescued. Being slow is not wrong; it is in the table.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "scenarios.h"
#include "stage.h"

#define EXIT_USAGE 64
#define ROUNDS_LIMIT 100

static const char usage[] =
    "belfry-overload: what attackers, and clients and servers in trouble, cost the others.\n"
    "\n"
    "    --only NAME        the scenarios whose names begin so; --list tells them\n"
    "    --rounds N         of each scenario; the figures are medians                (3)\n"
    "    --seconds S        of each situation of a round                             (0.5)\n"
    "    --stopped S        how long the server is stopped                           (30)\n"
    "    --shards N         of the server                                            (1)\n"
    "    --yield            attackers, and the busy processes that they are compared with, take only\n"
    "                       what the others leave of the processors\n"
    "    --quick            a round of each scenario, small and short\n"
    "    --corrupt-one      spoil one reply: the run must report it and fail\n"
    "    --json FILE        the results as one JSON object, besides the table\n"
    "    --list             the names and what they mean\n"
    "    --help             this\n"
    "\n"
    "The victim calls with 64 bytes, one call after the other: before, beside as many busy processes\n"
    "as attack later (they have nothing to do with belfry), and during the attack. Ratios are to the\n"
    "busy processes where there are some. As root the server, attackers and guests are several users;\n"
    "scenarios that need this are skipped elsewhere.\n"
    "\n"
    "Exit status: 0; 1 when something was wrong: a call failed, somebody was thrown out, a slot was\n"
    "lost, a wake was rescued. Never for being slow. 64 for a command line that makes no sense.\n";

static int complain(const char *option, const char *text)
{
    fprintf(stderr, "belfry-overload: --%s cannot be '%s'; --help lists the options\n", option, text);
    return EXIT_USAGE;
}

/* -1, or an exit status. */
static int read_number(const char *option, const char *text, double low, double high, double *out)
{
    char *end;
    *out = strtod(text, &end);
    bool good = end != text && *end == '\0' && isfinite(*out) && *out >= low && *out <= high;
    return good ? -1 : complain(option, text);
}

static int read_count(const char *option, const char *text, uint32_t high, uint32_t *out)
{
    double value = 1;
    int status = read_number(option, text, 1, high, &value);
    *out = (uint32_t)value;
    return status < 0 && *out != value ? complain(option, text) : status;
}

static int read_option(struct overload_options *o, int code, const char *word)
{
    switch (code) {
    case 'o':
        o->only = optarg;
        return -1;
    case 'r':
        return read_count("rounds", optarg, ROUNDS_LIMIT, &o->rounds);
    case 's':
        return read_number("seconds", optarg, 0.01, 3600, &o->seconds);
    case 't':
        return read_number("stopped", optarg, 0.01, 3600, &o->stopped_seconds);
    case 'n':
        return read_count("shards", optarg, BELFRY_SHARDS_MAX, &o->shards);
    case 'y':
        o->yield = true;
        return -1;
    case 'q':
        *o = (struct overload_options){.quick = true,
                                       .rounds = 1,
                                       .seconds = 0.1,
                                       .stopped_seconds = 1.5,
                                       .shards = o->shards,
                                       .yield = o->yield,
                                       .corrupt_one = o->corrupt_one,
                                       .only = o->only,
                                       .json = o->json};
        return -1;
    case 'j':
        o->json = optarg;
        return -1;
    case 'c':
        o->corrupt_one = true;
        return -1;
    case 'l':
        o->list = true;
        return -1;
    case 'h':
        fputs(usage, stdout);
        return EXIT_SUCCESS;
    default:
        fprintf(stderr, "belfry-overload: '%s' is not an option, or wants a value; --help lists them\n", word);
        return EXIT_USAGE;
    }
}

static int read_options(struct overload_options *o, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"only", required_argument, NULL, 'o'},    {"rounds", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'}, {"stopped", required_argument, NULL, 't'},
        {"shards", required_argument, NULL, 'n'},  {"yield", no_argument, NULL, 'y'},
        {"quick", no_argument, NULL, 'q'},         {"json", required_argument, NULL, 'j'},
        {"corrupt-one", no_argument, NULL, 'c'},   {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    int status = -1;
    *o = (struct overload_options){.rounds = 3, .seconds = 0.5, .stopped_seconds = 30, .shards = 1};
    opterr = 0;
    for (int code; status < 0 && (code = getopt_long(argc, argv, ":", long_options, NULL)) != -1;)
        status = read_option(o, code, argv[optind - 1]);
    if (status < 0 && optind < argc)
        status = read_option(o, '?', argv[optind]);
    return status;
}

static bool is_wanted(const struct overload_options *o, const struct plan *p)
{
    if (o->only != NULL)
        return strncmp(p->name, o->only, strlen(o->only)) == 0;
    return p->quick || !o->quick;
}

static bool run_all(struct stage *s, struct row *rows)
{
    bool good = true;
    report_head(s->options);
    for (size_t i = 0; i < plan_count; i++) {
        if (!is_wanted(s->options, &plans[i]))
            continue;
        s->row = &rows[i];
        plan_run(s, &plans[i]);
        report_row(&plans[i], &rows[i]);
        good = good && rows[i].wrongs == 0;
    }
    return good;
}

static int list(void)
{
    for (size_t i = 0; i < plan_count; i++)
        printf("%-24s %s\n", plans[i].name, plans[i].what);
    return EXIT_SUCCESS;
}

static int measure(const struct overload_options *o, FILE *json)
{
    struct stage stage = {.options = o, .scale = scale_of(o)};
    struct row *rows = calloc(plan_count, sizeof *rows);
    int status = rows == NULL ? EXIT_FAILURE : stage_open(&stage);
    if (status == 0) {
        bool good = run_all(&stage, rows);
        if (json != NULL && !report_json(o, rows, json)) {
            fprintf(stderr, "belfry-overload: cannot write the JSON file: %s\n", strerror(errno));
            good = false;
        }
        stage_close(&stage);
        status = good ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    free(rows);
    return status;
}

int main(int argc, char **argv)
{
    struct overload_options options;
    FILE *json = NULL;
    int status = read_options(&options, argc, argv);
    if (status >= 0)
        return status;
    if (options.list)
        return list();
    bool any = false;
    for (size_t i = 0; i < plan_count; i++)
        any = any || is_wanted(&options, &plans[i]);
    if (!any)
        return complain("only", options.only);
    if (options.json != NULL && (json = fopen(options.json, "we")) == NULL) {
        fprintf(stderr, "belfry-overload: cannot write '%s': %s\n", options.json, strerror(errno));
        return EXIT_USAGE;
    }
    proc_raise_nofile();
    status = measure(&options, json);
    if (json != NULL)
        fclose(json);
    return status;
}
