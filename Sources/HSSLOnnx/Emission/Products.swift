import HSSLGraph
import HSSLModels

/// Linear layers and convolutions: MatMul or Conv, with codes where they are quantised.
extension Emission {
    /// A product with its constants as they are multiplied.
    struct Product {
        /// The node whose result it is: the linear layer, or the layer scale that was multiplied into it.
        var node: Node
        /// The value that it multiplies.
        let source: Int
        let name: String
        let biasName: String
        let activation: Operation.Activation
        /// [N, K] row-major.
        private(set) var weight: [Float]
        private(set) var bias: [Float]?
        let outputs: Int
        /// Of what it multiplies; nil: no codes.
        var codes: CodeRange?
        var inputs: Int { weight.count / outputs }

        init(
            _ node: Node, name: String, biasName: String, activation: Operation.Activation, weight: [Float],
            bias: [Float]?
        ) {
            (self.node, source, outputs) = (node, node.inputs[0], node.shape.last ?? 1)
            (self.name, self.biasName, self.activation) = (name, biasName, activation)
            (self.weight, self.bias) = (weight, bias)
        }

        /// gamma·(x·Wᵀ + b) = x·(gamma·W)ᵀ + gamma·b.
        mutating func multiply(by factors: [Float]) {
            let inputs = inputs
            weight.withUnsafeMutableBufferPointer { weight in
                for (row, factor) in factors.enumerated() {
                    for index in row * inputs..<(row + 1) * inputs { weight[index] *= factor }
                }
            }
            bias = bias.map { zip($0, factors).map { $0 * $1 } }
        }
    }

    mutating func linear(_ node: Node, hasBias: Bool, activation: Operation.Activation) throws {
        var product = Product(
            node, name: parameterName(node, 1), biasName: hasBias ? parameterName(node, 2) : "",
            activation: activation, weight: try constant(node, 1, "the weight of a product"),
            bias: hasBias ? try constant(node, 2, "the bias of a product") : nil)
        if let quantization, quantization.products.contains(node.output) {
            product.codes = quantization.ranges[live.source(of: node)]
        }
        if let scale = live.factors(of: node) {
            product.multiply(by: try constants.values(scale.inputs[1]))
            product.node = scale
            skip(scale)
        }
        switch products[node.output] {
        case .convolution(let windows): try convolution(product, windows, rectifier: live.rectifier(of: node))
        case .tiles(let windows): try matrixProduct(product, tiles(windows), sharesCodes: false)
        case .matrix, nil: try matrixProduct(product, try plain(node.inputs[0]), sharesCodes: true)
        }
    }

    // MARK: MatMul

    /// - Parameter sharesCodes: the codes of x serve all who read it, and not this product alone.
    private mutating func matrixProduct(_ product: Product, _ x: String, sharesCodes: Bool) throws {
        var input = x
        let label = place
        let weight: String
        let (outputs, inputs) = (product.outputs, product.inputs)
        if let codes = product.codes {
            input = sharesCodes
                ? rounded(product.source, channelsFirst: false) { $0.graph.rounded(x, codes, label) }
                : graph.rounded(x, codes, label)
            let rows = WeightCodes(product.weight, outputs: outputs)
            weight = graph.dequantized(
                transposed(rows.codes, outputs, inputs), rows.scales, axis: 1, shape: [inputs, outputs], product.name)
        } else {
            weight = try graph.weights(
                transposed(product.weight, outputs, inputs), shape: [inputs, outputs], product.name)
        }
        var y = graph.add("MatMul", [input, weight], label)
        if let bias = product.bias {
            y = graph.add("Add", [y, try graph.weights(bias, shape: [outputs], product.biasName)], label)
        }
        if product.activation == .gelu { y = try gelu(y, label) }
        set(product.node, y)
    }

    /// Windows that touch but do not overlap, as rows ordered (u, v, c): [B, h/k, w/k, k·k·C].
    private mutating func tiles(_ windows: Windows) throws -> String {
        let shape = trace.tape.shapes[windows.source], k = windows.kernel
        let label = place
        let split = graph.reshape(
            try plain(windows.source), [-1, shape[1] / k, k, shape[2] / k, k, shape[3]], label)
        let moved = graph.transpose(split, [0, 1, 3, 2, 4, 5], label)
        return graph.reshape(moved, [-1, shape[1] / k, shape[2] / k, k * k * shape[3]], label)
    }

    // MARK: Conv

    private mutating func convolution(_ product: Product, _ windows: Windows, rectifier: Node?) throws {
        let label = place, k = windows.kernel, source = windows.source
        var x = windows.kind == .image ? try plain(source) : try channelsFirst(source)
        let channels = product.inputs / (k * k), shape = [product.outputs, channels, k, k]
        // Windows of a grid are ordered (u, v, c), an operator's weights (c, u, v).
        func ordered<Value>(_ rows: [Value]) -> [Value] {
            if windows.kind == .image || k == 1 { return rows }
            let area = k * k, width = product.inputs
            return (0..<product.outputs).flatMap { row in
                transposed(Array(rows[row * width..<(row + 1) * width]), area, channels)
            }
        }
        var operands: [String]
        if let codes = product.codes {
            x = rounded(source, channelsFirst: true) { $0.graph.rounded(x, codes, label) }
            let rows = WeightCodes(product.weight, outputs: product.outputs)
            operands = [
                x, graph.dequantized(ordered(rows.codes), rows.scales, axis: 0, shape: shape, product.name)]
            if let bias = product.bias {
                operands.append(graph.dequantized(bias: bias, rows.scales.map { $0 * codes.scale }, product.biasName))
            }
        } else {
            operands = [x, try graph.weights(ordered(product.weight), shape: shape, product.name)]
            if let bias = product.bias {
                operands.append(try graph.weights(bias, shape: [product.outputs], product.biasName))
            }
        }
        var y = graph.add("Conv", operands, label, [
            .ints("kernel_shape", [k, k]), .ints("strides", [windows.stride, windows.stride]),
            .ints("pads", Array(repeating: windows.padding, count: 4)),
        ])
        if product.activation == .gelu { y = try gelu(y, label) }
        guard product.codes != nil, let result = quantization?.ranges[(rectifier ?? product.node).output] else {
            return set(product.node, channelsFirst: y)
        }
        // An integer convolution gives codes, of what a rectifier behind it leaves.
        if let rectifier {
            y = graph.add("Relu", [y], label)
            skip(rectifier)
        }
        set(rectifier ?? product.node, roundedChannelsFirst: graph.rounded(y, result, label))
    }
}

/// [rows, columns] → [columns, rows].
func transposed<Value>(_ values: [Value], _ rows: Int, _ columns: Int) -> [Value] {
    [Value](unsafeUninitializedCapacity: values.count) { result, count in
        values.withUnsafeBufferPointer { values in
            for row in 0..<rows {
                for column in 0..<columns {
                    result.initializeElement(at: column * rows + row, to: values[row * columns + column])
                }
            }
        }
        count = values.count
    }
}
