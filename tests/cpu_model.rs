//! Whole models on the CPU executor: against PyTorch, tensor by tensor, and against a step-by-step stream.

mod common;

use common::model_checks as check;
use sinkstream::engine::Device;

#[test]
fn every_tensor_of_a_layer_is_pytorchs() {
    check::tensors(&Device::Cpu);
}

#[test]
fn dense_logits_are_those_of_transformers() {
    check::dense_logits(&Device::Cpu);
}

#[test]
fn golden_models_stream_like_the_step_by_step_reference() {
    check::golden_nlls(&Device::Cpu, &[1, 7, 128]);
}

#[test]
fn a_real_model_streams_like_an_independent_stream() {
    check::stories_nlls(&Device::Cpu);
}

#[test]
fn a_real_model_writes_its_known_text() {
    check::stories_greedy(&Device::Cpu);
}

#[test]
fn positions_beyond_32_bits_change_nothing() {
    check::far_positions(&Device::Cpu);
}

#[test]
fn chunk_size_changes_nothing() {
    check::chunk_sizes(&Device::Cpu);
}

#[test]
fn tokens_taken_back_leave_no_trace() {
    check::taking_back(&Device::Cpu);
}
