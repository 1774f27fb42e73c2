/* SPDX-License-Identifier: MIT */
/* What stress/json.c writes is what a reader gets: numbers to their last bit, null for what is not known. */
#include "../json.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* The text of an object that holds one number, called "x". The caller frees it. */
static char *object_with(double value)
{
    char *text = NULL;
    size_t size;
    struct json j = {.out = open_memstream(&text, &size)};
    cr_assert_not_null(j.out);
    json_open(&j, NULL, '{');
    json_number(&j, "x", value);
    json_close(&j, '}');
    cr_assert_eq(fclose(j.out), 0);
    return text;
}

static double read_back(const char *text)
{
    const char *colon = strchr(text, ':');
    cr_assert_not_null(colon);
    return strtod(colon + 1, NULL);
}

Test(json, a_number_is_read_back_as_it_was)
{
    static const double values[] = {0, 1, 1.3, 1.3004, 1.0 / 3, 1.0 / 30, 123456789012345.0, 5e-9, 0.1 + 0.2, 50e6};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char *text = object_with(values[i]);
        cr_assert_eq(read_back(text), values[i], "%.17g became %s", values[i], text);
        free(text);
    }
}

Test(json, a_number_has_no_more_digits_than_it_needs)
{
    char *text = object_with(1.3);
    cr_assert_str_eq(text, "{\n  \"x\": 1.3\n}");
    free(text);
    text = object_with(50e6);
    cr_assert_str_eq(text, "{\n  \"x\": 50000000\n}");
    free(text);
}

Test(json, what_is_not_known_is_null)
{
    char *text = object_with(-1);
    cr_assert_str_eq(text, "{\n  \"x\": null\n}");
    free(text);
    text = object_with(0.0 / 0.0);
    cr_assert_str_eq(text, "{\n  \"x\": null\n}");
    free(text);
}
