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

/// Normalisation of a sample over all positions of each group of channels, ε 1e-5: weight [C], bias [C].
package struct GroupNorm {
    private let weight: Parameter
    private let bias: Parameter
    private let groups: Int

    /// - Parameter groups: nil: 32 where that divides at least 64 channels, else the largest divisor that leaves at
    ///   least 4 channels a group.
    package init(_ scope: ParameterScope, channels: Int, groups: Int? = nil) {
        weight = scope.declare("weight", [channels], .ones)
        bias = scope.declare("bias", [channels], .zeros)
        self.groups = groups ?? Self.groups(channels)
    }

    static func groups(_ channels: Int) -> Int {
        if channels >= 64, channels % 32 == 0 { return 32 }
        return (1...max(1, channels / 4)).last { channels % $0 == 0 } ?? 1
    }

    /// x [B, …, C] → [B, …, C].
    package func callAsFunction(_ x: Tensor) -> Tensor {
        x.groupNorm(groups: groups, weight: x.tape.parameter(weight), bias: x.tape.parameter(bias), epsilon: 1e-5)
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

/// Convolution: weight [D, C, k, k], bias [D] or none, both uniform ±1/√fan_in, fan_in = C·k². An unfolding and a
/// product.
package struct Convolution {
    /// What a convolution reads, besides its weights.
    package struct Shape: Sendable {
        var inputs, outputs, kernel: Int
        var stride = 1
        var padding = 0
    }

    private let weight: Parameter
    private let bias: Parameter?
    private let shape: Shape
    private let source: Operation.WindowSource
    /// Weights are standardised when they are used (ε); nil: they are used as they are.
    private let standardization: Float?

    /// - Parameters:
    ///   - source: images [B, C, H, W] or grids [B, h, w, C]. The first layer, over images, is always computed in
    ///     float32.
    ///   - standardization: ε of weight standardisation while training; a deployed model holds the standardised
    ///     weights.
    package init(
        _ scope: ParameterScope, _ shape: Shape, from source: Operation.WindowSource = .grid, bias: Bool = true,
        standardization: Float? = nil
    ) {
        let bound = 1 / Float(shape.inputs * shape.kernel * shape.kernel).squareRoot()
        weight = scope.declare(
            "weight", [shape.outputs, shape.inputs, shape.kernel, shape.kernel], .uniform(bound: bound),
            deployedForm: standardization.map { .standardized(epsilon: $0) } ?? .plain)
        self.bias = bias ? scope.declare("bias", [shape.outputs], .uniform(bound: bound)) : nil
        (self.shape, self.source, self.standardization) = (shape, source, standardization)
    }

    /// The output grid for an input of this height and width.
    package func grid(_ input: Grid) -> Grid {
        func count(_ size: Int) -> Int {
            windowCount(size, kernel: shape.kernel, stride: shape.stride, padding: shape.padding)
        }
        return Grid(height: count(input.height), width: count(input.width))
    }

    /// → [B, h', w', D].
    package func callAsFunction(_ x: Tensor) -> Tensor {
        let tape = x.tape
        var weight = tape.parameter(weight)
        if let standardization { weight = weight.standardized(epsilon: standardization) }
        let bias = bias.map(tape.parameter)
        switch source {
        case .image:
            return x.unfolded(kernel: shape.kernel, stride: shape.stride, padding: shape.padding, from: .image)
                .linear(weight: weight, bias: bias, role: .full)
        case .grid:
            let isPointwise = shape.kernel == 1 && shape.stride == 1 && shape.padding == 0
            let windows = isPointwise
                ? x : x.unfolded(kernel: shape.kernel, stride: shape.stride, padding: shape.padding, from: .grid)
            // Windows of a grid are ordered (u, v, c), weights (c, u, v).
            if shape.kernel > 1 {
                weight = weight.reshaped([shape.outputs, shape.inputs, shape.kernel * shape.kernel]).transposedTokens()
            }
            return windows.linear(weight: weight, bias: bias)
        }
    }
}
