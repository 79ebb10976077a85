//! Whole models on the CPU executor: against PyTorch, tensor by tensor, and against a step-by-step stream.

mod common;

use common::check;
use pollster::block_on;
use sinkstream::engine::Device;
use sinkstream::kernels::cache::CacheType::{F16, F32};

#[test]
fn every_tensor_of_a_layer_is_pytorchs() {
    block_on(check::tensors(&Device::Cpu));
}

#[test]
fn dense_logits_are_those_of_transformers() {
    block_on(check::dense_logits(&Device::Cpu));
}

#[test]
fn golden_models_stream_like_the_step_by_step_reference() {
    block_on(check::golden_nlls(&Device::Cpu, &[1, 7, 128], ""));
}

#[test]
fn a_real_model_streams_like_an_independent_stream() {
    block_on(check::stories_nlls(&Device::Cpu, usize::MAX, &[F32, F16]));
}

#[test]
fn a_real_model_writes_its_known_text() {
    block_on(check::stories_greedy(&Device::Cpu));
}

#[test]
fn positions_beyond_32_bits_change_nothing() {
    block_on(check::far_positions(&Device::Cpu, 7));
}

#[test]
fn chunk_size_changes_nothing() {
    block_on(check::chunk_sizes(&Device::Cpu, &[2, 7, 8, 9, 33, 128]));
}

#[test]
fn tokens_taken_back_leave_no_trace() {
    block_on(check::taking_back(&Device::Cpu));
}

#[test]
fn whole_turns_leave_like_in_the_reference() {
    block_on(check::turns(&Device::Cpu, &[1, 7, 128]));
}

#[test]
fn saved_sessions_go_on() {
    block_on(check::saved_sessions(&Device::Cpu));
}

#[test]
fn streams_together_have_the_texts_that_each_has_alone() {
    block_on(check::together_as_alone(
        &Device::Cpu,
        &["streaming_4_28", "window_0_32"],
        &[(5, 5), (9, 5), (3, 3), (3, 2), (1, 1)],
    ));
}

#[test]
fn what_is_computed_ahead_is_void_once_a_stream_moves() {
    block_on(check::moved_streams(&Device::Cpu));
}
