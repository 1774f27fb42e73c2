/* SPDX-License-Identifier: MIT */
/* neighbour.c: see neighbour.h. */
#include "neighbour.h"

#include "ticks.h"
#include "workloads.h"

/* This process' own copy of the lab: it sends its requests at the whole rate. */
static void be_victim(struct lab *lab, struct lab_client *out)
{
    lab->processes = 1;
    body_pingpong(lab, NEIGHBOUR_VICTIM, out);
}

static void body_nobody(struct lab *lab, uint32_t process, struct lab_client *out)
{
    if (process == NEIGHBOUR_VICTIM)
        be_victim(lab, out);
    else {
        lab_ready(lab, out);
        lab_done(lab, out, 0, 0);
    }
}

static void body_burner(struct lab *lab, uint32_t process, struct lab_client *out)
{
    if (process == NEIGHBOUR_VICTIM) {
        be_victim(lab, out);
        return;
    }
    lab_ready(lab, out);
    uint64_t end = ticks_now() + ticks_from_seconds(lab->seconds);
    while (ticks_now() < end)
        ;
    lab_done(lab, out, 0, lab->seconds);
}

static void body_flooder(struct lab *lab, uint32_t process, struct lab_client *out)
{
    if (process == NEIGHBOUR_VICTIM)
        be_victim(lab, out);
    else
        body_stream(lab, process, out);
}

static void body_connector(struct lab *lab, uint32_t process, struct lab_client *out)
{
    if (process == NEIGHBOUR_VICTIM) {
        be_victim(lab, out);
        return;
    }
    lab->rate = 0; /* likewise a copy: no pauses */
    body_connect(lab, process, out);
}

void (*neighbour_body(enum beside beside))(struct lab *lab, uint32_t process, struct lab_client *out)
{
    static void (*const body[BESIDES])(struct lab *, uint32_t, struct lab_client *) = {
        [BESIDE_NOBODY] = body_nobody,
        [BESIDE_BURNER] = body_burner,
        [BESIDE_FLOODER] = body_flooder,
        [BESIDE_CONNECTOR] = body_connector,
    };
    return body[beside];
}
