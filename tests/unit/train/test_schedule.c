/* The schedule over bins: every row of every bin once in an epoch, bins in the order in which rows would be; and steps
 * counted in bins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "train/schedule.h"
#include "unit/alloc_hook.h"

static pl_config config(int64_t batch, int64_t accumulation) {
    return (pl_config){.per_device_train_batch_size = batch,
                       .gradient_accumulation_steps = accumulation,
                       .num_train_epochs = 2,
                       .max_steps = -1,
                       .learning_rate = 1,
                       .seed = 42,
                       .data_seed = PL_OPT_NO_I64,
                       .train_sampling_strategy = PL_SAMPLE_RANDOM};
}

static void test_bins(void **state) {
    (void)state;
    pl_error err;
    int64_t first[] = {0, 1, 4, 6, 7, 11};
    pl_bins bins = {.n = 5, .first = first, .most_rows = 4};
    pl_config c = config(2, 1);
    pl_schedule plain, packed;
    assert_int_equal(pl_schedule_init(&plain, &c, 5, &err), 0);
    assert_int_equal(pl_schedule_init(&packed, &c, bins.n, &err), 0);
    assert_int_equal(pl_schedule_pack(&packed, &bins, &err), 0);
    assert_int_equal(packed.most_rows, 8);
    assert_int_equal(packed.steps, 6);
    int64_t seen[11] = {0};
    for (int64_t step = 0; step < packed.steps; step++) {
        const int64_t *order, *rows;
        int64_t nbins, n, at = 0;
        assert_int_equal(pl_schedule_rows(&plain, step, &order, &nbins, &err), 0);
        assert_int_equal(pl_schedule_rows(&packed, step, &rows, &n, &err), 0);
        for (int64_t i = 0; i < nbins; i++)
            for (int64_t r = first[order[i]]; r < first[order[i] + 1]; r++) {
                assert_int_equal(rows[at++], r);
                seen[r]++;
            }
        assert_int_equal(n, at);
        assert_true(n <= packed.most_rows);
        assert_true(pl_schedule_epoch(&packed, step) == pl_schedule_epoch(&plain, step));
    }
    for (int64_t r = 0; r < 11; r++) assert_int_equal(seen[r], 2);
    pl_schedule_release(&plain);
    pl_schedule_release(&packed);
    assert_int_equal(pl_test_live_bytes(), 0);
}

/* More bins in a step than there are. */
static void test_one_step(void **state) {
    (void)state;
    pl_error err;
    int64_t first[] = {0, 2, 3};
    pl_bins bins = {.n = 2, .first = first, .most_rows = 2};
    pl_config c = config(8, 4);
    pl_schedule s;
    const int64_t *rows;
    int64_t n;
    assert_int_equal(pl_schedule_init(&s, &c, bins.n, &err), 0);
    pl_test_fail_alloc_at(0);
    assert_int_equal(pl_schedule_pack(&s, &bins, &err), PL_E_NOMEM);
    pl_test_fail_alloc_at(-1);
    pl_schedule_release(&s);
    assert_int_equal(pl_schedule_init(&s, &c, bins.n, &err), 0);
    assert_int_equal(pl_schedule_pack(&s, &bins, &err), 0);
    assert_int_equal(s.most_rows, 4);
    assert_int_equal(pl_schedule_rows(&s, 1, &rows, &n, &err), 0);
    assert_int_equal(n, 3);
    assert_int_equal(rows[0] + rows[1] + rows[2], 3);
    pl_schedule_release(&s);
    assert_int_equal(pl_test_live_bytes(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bins), cmocka_unit_test(test_one_step)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
