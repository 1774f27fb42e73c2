/* SPDX-License-Identifier: MIT */
/* options.c: the command line of belfry-torture. See torture.h. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "torture.h"

static const char usage[] =
    "belfry-torture: clients that are killed as fast as the machine takes it, and a server that must not care.\n"
    "\n"
    "    --seconds S        how long at most                                       (1800)\n"
    "    --kills N          or until so many clients were killed; 0: no matter     (0)\n"
    "    --clients N        at the same time                                       (64)\n"
    "    --life-ms N        how long each lives on average                         (50)\n"
    "    --shards N         threads of the server                                  (2)\n"
    "    --server-every S   kill the server, too, every S seconds; 0: never        (10)\n"
    "    --seed N           for who does what, who is killed, and when             (the clock)\n"
    "    --corrupt-one      spoil one reply, and more until its client lives to tell: the run must report it and fail\n"
    "    --lose-one         the server forgets a message: the same\n"
    "    --help             this\n"
    "\n"
    "Exit status: 0 when nothing was torn, lost, repeated, leaked or rescued; 1 when something was; 64 for a\n"
    "command line that makes no sense; 69 when this machine cannot run a server.\n";

enum option_code {
    OPT_SECONDS = 256,
    OPT_KILLS,
    OPT_CLIENTS,
    OPT_LIFE_MS,
    OPT_SHARDS,
    OPT_SERVER_EVERY,
    OPT_SEED,
    OPT_CORRUPT_ONE,
    OPT_LOSE_ONE,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"kills", required_argument, NULL, OPT_KILLS},
    {"clients", required_argument, NULL, OPT_CLIENTS},
    {"life-ms", required_argument, NULL, OPT_LIFE_MS},
    {"shards", required_argument, NULL, OPT_SHARDS},
    {"server-every", required_argument, NULL, OPT_SERVER_EVERY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"corrupt-one", no_argument, NULL, OPT_CORRUPT_ONE},
    {"lose-one", no_argument, NULL, OPT_LOSE_ONE},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int complain(const char *what)
{
    fprintf(stderr, "belfry-torture: %s; --help lists the options\n", what);
    return EXIT_USAGE;
}

/* A number from `low` to `high`; with `whole`, a whole one. False: it is not. */
static bool read_number(const char *text, bool whole, double low, double high, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= low && *out <= high &&
           (!whole || strspn(text, "0123456789") == strlen(text));
}

static int read_option(struct options *o, int code, const char *text)
{
    double value = 0;
    switch (code) {
    case OPT_SECONDS:
        return read_number(text, false, 0.1, 1e7, &o->seconds) ? -1 : complain("--seconds wants some");
    case OPT_KILLS:
        if (!read_number(text, true, 0, 1e12, &value))
            return complain("--kills wants a whole number");
        o->kills = (uint64_t)value;
        return -1;
    case OPT_CLIENTS:
        if (!read_number(text, true, 1, CLIENTS_MAX, &value))
            return complain("--clients wants a whole number from 1 to 1024");
        o->clients = (uint32_t)value;
        return -1;
    case OPT_LIFE_MS:
        if (!read_number(text, true, 1, 60000, &value))
            return complain("--life-ms wants a whole number from 1 to 60000");
        o->life_ms = (uint32_t)value;
        return -1;
    case OPT_SHARDS:
        if (!read_number(text, true, 1, SHARDS_MAX, &value))
            return complain("--shards wants a whole number from 1 to 16");
        o->shards = (uint32_t)value;
        return -1;
    case OPT_SERVER_EVERY:
        return read_number(text, false, 0, 1e7, &o->server_every) ? -1 : complain("--server-every wants seconds");
    case OPT_SEED:
        o->seed = strtoull(text, NULL, 0);
        return -1;
    case OPT_CORRUPT_ONE:
        o->corrupt_one = true;
        return -1;
    case OPT_LOSE_ONE:
        o->lose_one = true;
        return -1;
    case OPT_HELP:
        fputs(usage, stdout);
        return 0;
    default:
        return complain("there is an option that is none, or one without its value");
    }
}

int options_parse(struct options *o, int argc, char **argv)
{
    struct timespec now;
    int rc = -1;
    clock_gettime(CLOCK_REALTIME, &now);
    *o = (struct options){
        .clients = 64,
        .shards = 2,
        .seconds = 1800,
        .life_ms = 50,
        .server_every = 10,
        .seed = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000,
    };
    opterr = 0;
    for (int code; rc < 0 && (code = getopt_long(argc, argv, ":", long_options, NULL)) != -1;)
        rc = read_option(o, code, optarg);
    if (rc < 0 && optind < argc)
        rc = complain("there is one word too many");
    return rc;
}
