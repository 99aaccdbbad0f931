import HSSLGraph

/// Batch norm over the rows of one view, biased variance, ε 1e-5, no running statistics: projections are thrown away.
package struct BatchNorm {
    /// Nil: no affine map follows.
    private let affine: (weight: Parameter, bias: Parameter)?

    package init(_ scope: ParameterScope, width: Int, affine: Bool = true) {
        self.affine = affine ? (scope.declare("weight", [width], .ones), scope.declare("bias", [width], .zeros)) : nil
    }

    /// x [views · rows, C], view-major → the same shape. The rows are the whole batch: statistics of a part are others.
    package func callAsFunction(_ x: Tensor, views: Int) -> Tensor {
        let rows = x.rows / views, width = x.width
        // A column of one view becomes a row, which standardisation knows how to treat.
        let columns = x.reshaped([views, rows, width]).transposedTokens().reshaped([views * width, rows])
        let normalized = columns.standardized(epsilon: 1e-5).reshaped([views, width, rows]).transposedTokens()
            .reshaped([views * rows, width])
        guard let affine else { return normalized }
        return normalized.scaledChannels(by: x.tape.parameter(affine.weight))
            .addingBroadcast(x.tape.parameter(affine.bias))
    }
}

/// The projectors and predictors of MoCo v3 and BYOL: linear layers with batch norm and ReLU between them.
package struct BatchNormMLP {
    private enum Layer {
        case linear(Linear)
        case norm(BatchNorm)
        case relu
    }

    private let layers: [Layer]

    /// - Parameters:
    ///   - widths: of the input, the hidden layers and the output.
    ///   - bias: whether hidden linear layers have one (the last has none).
    ///   - lastNorm: whether a norm without affine map ends it.
    package init(_ scope: ParameterScope, widths: [Int], bias: Bool, lastNorm: Bool) {
        // Numbered as the members of an nn.Sequential.
        var layers: [Layer] = []
        func scopeOfNext() -> ParameterScope { scope("\(layers.count)") }
        for (place, (inputs, outputs)) in zip(widths, widths.dropFirst()).enumerated() {
            let isLast = place == widths.count - 2
            layers.append(.linear(Linear(scopeOfNext(), inputs: inputs, outputs: outputs, bias: bias && !isLast)))
            if !isLast {
                layers.append(.norm(BatchNorm(scopeOfNext(), width: outputs)))
                layers.append(.relu)
            } else if lastNorm {
                layers.append(.norm(BatchNorm(scopeOfNext(), width: outputs, affine: false)))
            }
        }
        self.layers = layers
    }

    /// x [views · rows, D], view-major, every row of the batch → [views · rows, out].
    package func callAsFunction(_ x: Tensor, views: Int) -> Tensor {
        layers.reduce(x) { x, layer in
            switch layer {
            case .linear(let linear): linear(x)
            case .norm(let norm): norm(x, views: views)
            case .relu: x.relu()
            }
        }
    }
}
