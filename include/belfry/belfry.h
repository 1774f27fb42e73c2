/* SPDX-License-Identifier: MIT */
/* belfry/belfry.h: everything at once. A program that is only a client includes belfry/client.h. */
#ifndef BELFRY_H
#define BELFRY_H

#include <belfry/client.h>
#include <belfry/server.h>
#include <belfry/stats.h>
#include <belfry/types.h>

#endif
