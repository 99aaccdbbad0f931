import HSSLGraph
import HSSLModels

/// Runs a record over images one by one, in float32 or as codes of its products would make it.
final class Replay {
    private let live: LiveNodes
    private let pool = BufferPool()
    /// What does not depend on the image, by value; the rounded weights by product.
    private var constants: [Int: Parameter] = [:]
    private var roundedWeights: [Int: Parameter] = [:]

    init(_ live: LiveNodes) { self.live = live }

    /// The features of one image after the final norm.
    ///
    /// - Parameters:
    ///   - image: prepared, [C, H, W].
    ///   - quantization: nil: none.
    ///   - observe: sees every value that depends on the image.
    func global(
        _ image: [Float], _ quantization: StaticQuantization? = nil,
        observe: (_ value: Int, _ tensor: Tensor) -> Void = { _, _ in }
    ) throws -> [Float] {
        let trace = live.trace
        let tape = Tape(mode: .inference, pool: pool)
        var values: [Int: Tensor] = [trace.images.id: tape.constant(image, shape: trace.images.shape)]
        var rounded: [Int: Tensor] = [:]
        let given = quantization.map { results(of: $0) } ?? []
        func operand(_ id: Int) throws -> Tensor {
            if let known = values[id] { return known }
            let made = tape.parameter(try constant(id))
            values[id] = made
            return made
        }
        for node in live.nodes {
            var operands = try node.inputs.map { try operand($0) }
            if let quantization, quantization.products.contains(node.output) {
                operands[0] = rounding(node, operands[0], quantization, &rounded)
                operands[1] = tape.parameter(try roundedWeight(node))
            }
            guard var result = node.operation.apply(to: operands, shape: node.shape) else {
                throw ModelError("operation \(node.operation.kind) is not part of inference")
            }
            if let range = quantization?.ranges[node.output], given.contains(node.output) {
                result = Self.rounded(result, range)
            }
            values[node.output] = result
            observe(node.output, result)
        }
        return try operand(trace.global.id).array()
    }

    /// Values that integer convolutions give.
    private func results(of quantization: StaticQuantization) -> Set<Int> {
        let forms = live.forms(quantized: quantization.products).products
        return Set(live.policyProducts.compactMap { product in
            guard quantization.products.contains(product.output),
                  case .convolution? = forms[product.output] else { return nil }
            return live.result(of: product)
        })
    }

    /// What a product reads, as its codes: a convolution reads windows of the rounded grid, which are the rounded
    /// windows, zero being a code.
    private func rounding(
        _ product: Node, _ tensor: Tensor, _ quantization: StaticQuantization, _ known: inout [Int: Tensor]
    ) -> Tensor {
        let id = product.inputs[0]
        if let rounded = known[id] { return rounded }
        guard let range = quantization.ranges[live.source(of: product)] else { return tensor }
        let rounded = Self.rounded(tensor, range)
        known[id] = rounded
        return rounded
    }

    private static func rounded(_ tensor: Tensor, _ range: CodeRange) -> Tensor {
        let rounded = tensor.withUnsafeValues { values in values.map { range.rounded($0) } }
        return tensor.tape.constant(rounded, shape: tensor.shape)
    }

    private func constant(_ id: Int) throws -> Parameter {
        if let known = constants[id] { return known }
        let made = parameter(live.trace.tape.shapes[id], try live.constants.values(id))
        constants[id] = made
        return made
    }

    private func roundedWeight(_ product: Node) throws -> Parameter {
        let id = product.inputs[1]
        if let known = roundedWeights[id] { return known }
        let shape = live.trace.tape.shapes[id]
        let made = parameter(shape, WeightCodes(try live.constants.values(id), outputs: shape[0]).values)
        roundedWeights[id] = made
        return made
    }

    /// A parameter, since those keep their packed forms from image to image.
    private func parameter(_ shape: [Int], _ values: [Float]) -> Parameter {
        let parameter = Parameter(name: "", shape: shape, initializer: .zeros)
        parameter.allocate(from: pool)
        parameter.values.update(from: values, count: values.count)
        parameter.valuesDidChange()
        return parameter
    }
}
