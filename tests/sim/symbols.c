/* SPDX-License-Identifier: MIT */
/* symbols.c: which line of the program an address belongs to, for traces. Asks addr2line; without it, the address. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sim.h"

#define KNOWN 4096u
#define TEXT_BYTES 64u

struct symbol {
    uint64_t site;
    char text[TEXT_BYTES];
};

static struct symbol known[KNOWN];
static FILE *asked, *told;

/* It ends when its input does, which is when we end. */
static void start(void)
{
    int ends[2];
    char program[64];
    snprintf(program, sizeof program, "/proc/%d/exe", (int)getpid());
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        return;
    if (fork() == 0) {
        dup2(ends[1], 0);
        dup2(ends[1], 1);
        close(ends[0]);
        execlp("addr2line", "addr2line", "-f", "-s", "-e", program, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    asked = fdopen(ends[0], "w");
    told = fdopen(dup(ends[0]), "r");
}

static void ask(struct symbol *s)
{
    char function[128], line[128];
    snprintf(s->text, sizeof s->text, "%llx", (unsigned long long)s->site);
    if (asked == NULL)
        start();
    if (asked == NULL || told == NULL || fprintf(asked, "%llx\n", (unsigned long long)s->site - 1) < 0 ||
        fflush(asked) != 0 || fgets(function, sizeof function, told) == NULL || fgets(line, sizeof line, told) == NULL)
        return;
    function[strcspn(function, "\n")] = '\0';
    line[strcspn(line, " \n")] = '\0';
    if (function[0] != '?')
        snprintf(s->text, sizeof s->text, "%.31s %.31s", function, line);
}

const char *sim_symbol(uint64_t site)
{
    struct symbol *s = &known[site % KNOWN];
    if (site == 0)
        return "the kernel";
    if (s->site != site) {
        s->site = site;
        ask(s);
    }
    return s->text;
}
