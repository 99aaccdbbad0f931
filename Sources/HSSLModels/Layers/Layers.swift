import HSSLGraph

/// Affine map x·Wᵀ + b with PyTorch's names and layout: weight [out, in], bias [out].
package struct Linear {
    package let weight: Parameter
    package let bias: Parameter?
    private let role: MatrixRole

    package init(_ scope: ParameterScope, inputs: Int, outputs: Int, bias: Bool = true, role: MatrixRole = .policy) {
        weight = scope.declare("weight", [outputs, inputs], .truncatedNormal(standardDeviation: 0.02))
        self.bias = bias ? scope.declare("bias", [outputs], .zeros) : nil
        self.role = role
    }

    /// x [..., in] → activation(x·Wᵀ + b) [..., out].
    package func callAsFunction(_ x: Tensor, activation: Operation.Activation = .none) -> Tensor {
        x.linear(weight: x.tape.parameter(weight), bias: bias.map(x.tape.parameter), activation: activation, role: role)
    }
}

/// Normalisation over the last axis: weight [D], bias [D].
package struct LayerNorm {
    package let weight: Parameter
    package let bias: Parameter
    package let epsilon: Float

    package init(_ scope: ParameterScope, width: Int, epsilon: Float) {
        weight = scope.declare("weight", [width], .ones)
        bias = scope.declare("bias", [width], .zeros)
        self.epsilon = epsilon
    }

    /// x [..., D] → [..., D].
    package func callAsFunction(_ x: Tensor) -> Tensor {
        x.layerNorm(weight: x.tape.parameter(weight), bias: x.tape.parameter(bias), epsilon: epsilon)
    }
}

/// Depthwise convolution, stride 1, "same": weight [C, 1, k, k], bias [C], both uniform ±1/√fan_in, fan_in = k².
package struct DepthwiseConv {
    package let weight: Parameter
    package let bias: Parameter

    package init(_ scope: ParameterScope, channels: Int, kernel: Int) {
        let bound = 1 / Float(kernel)
        weight = scope.declare("weight", [channels, 1, kernel, kernel], .uniform(bound: bound))
        bias = scope.declare("bias", [channels], .uniform(bound: bound))
    }

    /// x [B, h, w, C] → [B, h, w, C].
    package func callAsFunction(_ x: Tensor) -> Tensor {
        x.depthwiseConv(weight: x.tape.parameter(weight), bias: x.tape.parameter(bias))
    }
}
