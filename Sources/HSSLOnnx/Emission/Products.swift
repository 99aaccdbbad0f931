import HSSLGraph
import HSSLModels

/// Linear layers and convolutions: MatMul or Conv, with codes where they are quantised.
extension Emission {
    /// A product with its constants as they are multiplied.
    struct Product {
        /// The node whose result it is: the linear layer, or the layer scale that was multiplied into it.
        var node: Node
        let name: String
        let biasName: String
        /// [N, K] row-major.
        var weight: [Float]
        var bias: [Float]?
        let outputs: Int
        /// 8-bit codes: the input's; nil: float.
        var codes: CodeRange?
        var inputs: Int { weight.count / outputs }
    }

    mutating func linear(
        _ node: Node, hasBias: Bool, activation: Operation.Activation, role: MatrixRole
    ) throws {
        var product = Product(
            node: node, name: parameterName(node, 1), biasName: hasBias ? parameterName(node, 2) : "",
            weight: try constant(node, 1, "the weight of a product"),
            bias: hasBias ? try constant(node, 2, "the bias of a product") : nil, outputs: node.shape.last ?? 1)
        let x = node.inputs[0]
        if role == .policy, let quantization, quantization.isQuantized(node) {
            product.codes = quantization.range(of: windows(x)?.source ?? x)
        }
        if activation == .none, let scale = try takeFactors(&product) { skip(scale) }
        if let windows = windows(x) {
            if product.codes != nil, windows.kind == .grid, windows.kernel == windows.stride, windows.padding == 0,
               trace.tape.shapes[windows.source][1] % windows.kernel == 0,
               trace.tape.shapes[windows.source][2] % windows.kernel == 0, !isChannelsFirst(windows.source) {
                // Windows that do not overlap are an order of the elements. Codes of a convolution's result are then
                // not needed, as they are for an integer convolution.
                try matrixProduct(product, tiles(windows), activation, label(node), cached: nil)
            } else {
                try convolution(product, windows, activation)
            }
        } else if node.shape.count == 4, isChannelsFirst(x) {
            try convolution(
                product, Windows(source: x, kernel: 1, stride: 1, padding: 0, kind: .grid), activation)
        } else {
            try matrixProduct(product, try plain(x), activation, label(node), cached: x)
        }
    }

    /// gamma·(x·Wᵀ + b) = x·(gamma·W)ᵀ + gamma·b, where nothing else reads the product.
    private func takeFactors(_ product: inout Product) throws -> Node? {
        guard let scale = onlyReader(of: product.node), case .scaleChannels = scale.operation,
              constants.contains(scale.inputs[1]) else { return nil }
        let factors = try constants.values(scale.inputs[1])
        let inputs = product.inputs
        product.weight.withUnsafeMutableBufferPointer { weight in
            for (row, factor) in factors.enumerated() {
                for index in row * inputs..<(row + 1) * inputs { weight[index] *= factor }
            }
        }
        product.bias = product.bias.map { zip($0, factors).map { $0 * $1 } }
        product.node = scale
        return scale
    }

    // MARK: MatMul

    /// - Parameter cached: the value whose codes are made once for all its readers; nil: for this product alone.
    private mutating func matrixProduct(
        _ product: Product, _ x: String, _ activation: Operation.Activation, _ label: String, cached: Int?
    ) throws {
        var input = x
        let weight: String
        let (outputs, inputs) = (product.outputs, product.inputs)
        if let codes = product.codes {
            if let cached {
                input = rounded(cached, channelsFirst: false) { $0.graph.rounded(x, codes, label) }
            } else {
                input = graph.rounded(x, codes, label)
            }
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
        if activation == .gelu { y = try gelu(y, label) }
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

    private mutating func convolution(
        _ product: Product, _ windows: Windows, _ activation: Operation.Activation
    ) throws {
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
        if product.codes != nil, activation == .none {
            // An integer convolution gives codes, of what a rectifier behind it leaves.
            var last = product.node
            if let next = onlyReader(of: last), case .unary(.relu) = next.operation {
                y = graph.add("Relu", [y], label)
                skip(next)
                last = next
            }
            if let range = quantization?.range(of: last.output) {
                y = graph.rounded(y, range, label)
                set(last, rounded: y, channelsFirst: true)
            }
            return set(last, channelsFirst: y)
        }
        if activation == .gelu { y = try gelu(y, label) }
        set(product.node, channelsFirst: y)
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
