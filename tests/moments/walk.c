/* SPDX-License-Identifier: MIT */
/* walk.c: see walk.h. */
#include "walk.h"

#include <stdio.h>
#include <stdlib.h>

#define SURVIVALS 5u
#define TRIES 8u /* at one place: it may never be reached again */

void walk_begin(struct walk *walk, const char *name, uint64_t every)
{
    const char *given = getenv("BELFRY_MOMENTS_EVERY");
    struct fixture_random random;
    *walk = (struct walk){.name = name, .every = every, .began_ms = fixture_now_ms()};
    if (given != NULL && strtoull(given, NULL, 10) > 0)
        walk->every = strtoull(given, NULL, 10);
    if (walk->every > 1)
        fixture_seed(&random, name);
    walk->fatal = walk->every > 1 ? fixture_next(&random) % walk->every + 1 : 1;
}

bool walk_on(struct walk *walk)
{
    if (walk->survived < SURVIVALS)
        return true;
    moments->place = moments_place_without_death(TRIES);
    walk->fatal = 0;
    return moments->place != 0;
}

void walk_result(struct walk *walk, bool died)
{
    walk->kills += died;
    walk->moments = moments->passed > walk->moments ? moments->passed : walk->moments;
    if (walk->fatal == 0)
        return;
    walk->survived = died ? 0 : walk->survived + 1;
    walk->fatal += walk->every;
}

void walk_end(struct walk *walk)
{
    unsigned reached, killed;
    moments_places(&reached, &killed);
    int64_t ms = fixture_now_ms() - walk->began_ms;
    printf("%s: %llu moments, %llu deaths", walk->name, (unsigned long long)walk->moments,
           (unsigned long long)walk->kills);
    if (reached > 0)
        printf(", at %u of %u places", killed, reached);
    printf(", in %lld.%03lld s\n", (long long)ms / 1000, (long long)ms % 1000);
    fflush(stdout);
}
