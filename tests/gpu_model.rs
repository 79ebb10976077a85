//! Whole models on the GPU executor: the checks of `cpu_model.rs`, and both executors side by side.
//!
//! Any adapter counts, software ones too. Without one these tests fail, unless `SINKSTREAM_GPU=skip` asks for that.

mod common;

use common::check;
use common::gpu;
use sinkstream::kernels::cache::CacheType::{F16, F32};

macro_rules! on_gpu {
    ($($name:ident => $check:ident($($more:expr),*);)*) => {
        $(#[test]
        fn $name() {
            if let Some(device) = gpu() {
                pollster::block_on(check::$check(&device $(, $more)*));
            }
        })*
    };
}

on_gpu! {
    every_tensor_of_a_layer_is_pytorchs => tensors();
    dense_logits_are_those_of_transformers => dense_logits();
    golden_models_stream_like_the_step_by_step_reference => golden_nlls(&[128], "");
    a_real_model_streams_like_an_independent_stream => stories_nlls(1200, &[F32, F16]);
    a_real_model_writes_its_known_text => stories_greedy();
    positions_beyond_32_bits_change_nothing => far_positions(7);
    chunk_size_changes_nothing => chunk_sizes(&[2, 7, 8, 9, 33, 128]);
    whole_turns_leave_like_in_the_reference => turns(&[16]);
    saved_sessions_go_on => saved_sessions();
    streams_together_have_the_texts_that_each_has_alone => together_as_alone(&["streaming_4_28", "window_0_32"], &[(5, 5), (9, 5), (3, 3), (3, 2), (1, 1)]);
    streams_of_unequal_age_share_their_steps => shared_steps();
    what_is_computed_ahead_is_void_once_a_stream_moves => moved_streams();
    streams_go_on_after_the_device_was_lost => lost_device(1, 0..6);
    streams_of_every_mode_go_on_after_the_device_was_lost => lost_device(4, 1..2);
    the_host_never_waits_for_one_token => steady_state();
    tokens_taken_back_leave_no_trace => taking_back();
    the_same_seed_gives_the_same_text_as_on_the_cpu => same_text_as_cpu(5, 200);
    nlls_are_those_of_the_cpu => close_to_cpu();
    software_adapters_have_the_bits_of_the_cpu => same_bits_as_cpu();
    what_real_gpus_run_gives_the_same_results => cut_as_for_a_gpu();
    cooperative_matrices_keep_the_nlls => matrix_nlls();
    the_fastest_tuning_writes_the_same_text => autotuned();
    the_fastest_tier_has_the_same_nlls => autotuned_tier();
}
