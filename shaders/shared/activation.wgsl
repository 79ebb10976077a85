// Activations of the feed-forward, chosen by a constant. Twin: src/kernels/activation.rs, with the sources.

override ACTIVATION: u32;

const SILU: u32 = 1u;
const GELU_TANH: u32 = 2u;
const GELU_ERF: u32 = 3u;

// 1 / (1 + e^-x): 0 to f32's last bit below -80, where the reciprocal still is a normal number.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exponential(-max(x, -80.0)));
}

// 1 - erf(x / sqrt(2)) for x ≥ 0, to 1.5e-7. No constant is multiplied with another: compilers would put them together.
fn erf_tail(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.23164189 * x);
    let series = ((((1.0614054 * t - 1.4531521) * t + 1.4214137) * t - 0.28449672) * t + 0.2548296) * t;
    return series * exponential(-0.5 * (x * x));
}

fn activate(x: f32) -> f32 {
    if (ACTIVATION == SILU) {
        return x * sigmoid(x);
    }
    if (ACTIVATION == GELU_TANH) {
        // 0.5 (1 + tanh(u)) is sigmoid(2 u); one factor x outside, so that a compiler finds nothing to take out
        return x * sigmoid(x * (1.5957692 + 0.071354814 * (x * x)));
    }
    if (ACTIVATION == GELU_ERF) {
        // 1 + erf of a negative number is the tail of its size: no difference of nearly equal numbers
        let tail = erf_tail(abs(x));
        return 0.5 * x * select(2.0 - tail, tail, x < 0.0);
    }
    return x;
}
