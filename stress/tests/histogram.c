/* SPDX-License-Identifier: MIT */
/* The histogram of stress/: its buckets tile the whole range, and what it reports is honest to within one of them. */
#include "../histogram.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static struct histogram *histogram_new(void)
{
    struct histogram *h = calloc(1, sizeof *h);
    cr_assert_not_null(h);
    return h;
}

Test(histogram, buckets_tile_the_range_without_gap_or_overlap)
{
    cr_assert_eq(histogram_bucket_low(0), 0);
    for (uint32_t i = 0; i + 1 < HISTOGRAM_BUCKETS; i++)
        cr_assert_eq(histogram_bucket_high(i) + 1, histogram_bucket_low(i + 1), "after bucket %u", i);
    cr_assert_eq(histogram_bucket_high(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
}

Test(histogram, both_ends_of_a_bucket_fall_into_it)
{
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        cr_assert_eq(histogram_bucket(histogram_bucket_low(i)), i);
        cr_assert_eq(histogram_bucket(histogram_bucket_high(i)), i);
    }
}

Test(histogram, a_bucket_is_never_wider_than_one_step_of_its_value)
{
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        uint64_t width = histogram_bucket_high(i) - histogram_bucket_low(i);
        cr_assert_leq(width, histogram_bucket_low(i) / HISTOGRAM_STEPS, "bucket %u", i);
    }
}

Test(histogram, an_empty_one_reports_nothing)
{
    struct histogram *h = histogram_new();
    cr_assert_eq(h->count, 0);
    cr_assert_eq(histogram_percentile(h, 500), 0);
    free(h);
}

Test(histogram, one_sample_is_every_percentile)
{
    struct histogram *h = histogram_new();
    histogram_add(h, 123456789);
    cr_assert_eq(histogram_percentile(h, 0), 123456789);
    cr_assert_eq(histogram_percentile(h, 500), 123456789);
    cr_assert_eq(histogram_percentile(h, 1000), 123456789);
    free(h);
}

Test(histogram, percentile_of_uniform_values_is_within_one_bucket)
{
    static const uint32_t per_mille[] = {1, 10, 250, 500, 900, 990, 999, 1000};
    const uint64_t samples = 100000, step = 37;
    struct histogram *h = histogram_new();
    for (uint64_t i = 1; i <= samples; i++)
        histogram_add(h, i * step);
    for (size_t i = 0; i < sizeof per_mille / sizeof per_mille[0]; i++) {
        uint64_t truth = samples * per_mille[i] / 1000 * step;
        uint64_t told = histogram_percentile(h, per_mille[i]);
        cr_assert_geq(told, truth, "%u per mille flatters: %lu", per_mille[i], (unsigned long)told);
        cr_assert_leq(told, truth + truth / HISTOGRAM_STEPS, "%u per mille: %lu", per_mille[i], (unsigned long)told);
    }
    free(h);
}

Test(histogram, a_single_outlier_is_the_maximum_and_is_kept_exactly)
{
    struct histogram *h = histogram_new();
    for (int i = 0; i < 9999; i++)
        histogram_add(h, 100);
    histogram_add(h, 7777777777777ull);
    cr_assert_eq(h->max, 7777777777777ull);
    cr_assert_eq(h->min, 100);
    cr_assert_eq(histogram_percentile(h, 999), 100);
    cr_assert_eq(histogram_percentile(h, 1000), 7777777777777ull);
    free(h);
}

Test(histogram, a_rank_finds_one_in_ten_thousand)
{
    struct histogram *h = histogram_new();
    for (int i = 0; i < 20000; i++)
        histogram_add(h, i < 19998 ? 100 : i < 19999 ? 120 : 127);
    cr_assert_eq(histogram_at_rank(h, h->count - h->count / 10000), 100);
    cr_assert_eq(histogram_at_rank(h, h->count - 1), 120);
    cr_assert_eq(histogram_at_rank(h, h->count), 127);
    cr_assert_eq(histogram_at_rank(h, 0), 100);
    free(h);
}

Test(histogram, no_value_is_out_of_range)
{
    struct histogram *h = histogram_new();
    histogram_add(h, 0);
    histogram_add(h, UINT64_MAX);
    cr_assert_eq(h->count, 2);
    cr_assert_eq(histogram_percentile(h, 500), 0);
    cr_assert_eq(histogram_percentile(h, 1000), UINT64_MAX);
    free(h);
}

Test(histogram, merging_is_the_same_as_counting_into_one)
{
    struct histogram *all = histogram_new(), *odd = histogram_new(), *even = histogram_new(), *sum = histogram_new();
    uint64_t value = 1;
    for (int i = 0; i < 20000; i++) {
        value = value * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t sample = value >> (20 + i % 40);
        histogram_add(all, sample);
        histogram_add(i % 2 ? odd : even, sample);
    }
    histogram_merge(sum, odd);
    histogram_merge(sum, even);
    cr_assert_arr_eq(sum, all, sizeof *all);
    free(all), free(odd), free(even), free(sum);
}

Test(histogram, merging_an_empty_one_changes_nothing)
{
    struct histogram *h = histogram_new(), *empty = histogram_new();
    histogram_add(h, 42);
    histogram_merge(h, empty);
    cr_assert_eq(h->count, 1);
    cr_assert_eq(h->min, 42);
    histogram_merge(empty, h);
    cr_assert_eq(empty->min, 42);
    cr_assert_eq(empty->max, 42);
    free(h), free(empty);
}
