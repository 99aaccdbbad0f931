/// How the matrix products of a recording are computed: a policy of the tape, which model code does not know.
///
/// Only products that ask for the policy follow it (`MatrixRole.policy`); patch embedding and prototypes stay float32,
/// and so do norms, softmax, GELU and residual arithmetic everywhere. (Plans for features go further: see `ProductForm`
/// and `HSSL_STEP_ATTENTION_INTEGER`.)
public enum Precision: String, Sendable, CaseIterable {
    /// Everything in IEEE binary32.
    case float32
    /// binary16 storage of weights and of what the backward pass keeps; binary32 arithmetic.
    case float16
    /// Forward u8 (per token) × s8 (per output channel); input gradient int8 with stochastic rounding; weight gradient
    /// the saved codes × u8 (per output channel of 128 tokens of like magnitude); other activations are kept in
    /// binary16. After SwitchBack, Wortsman et al., NeurIPS 2023, which keeps weight gradients in binary16.
    case int8
}

/// Whether a matrix product follows the tape's precision policy.
public enum MatrixRole: Sendable {
    case policy
    case full
}
