import HSSLGraph
import HSSLModels

/// A model's record as ONNX operators, one emission an operation.
///
/// A value of the record, which is of one image, becomes a tensor whose first axis is longer by the number of images:
/// the values of the images one behind the other. So every operation that keeps samples apart is the same operator,
/// whatever the batch, and shapes differ from the record's in their first number alone.
struct Emission {
    /// Names of the graph's input and outputs.
    enum Name {
        static let images = "pixel_values", global = "global", patch = "patch"
    }

    /// The forms in which the graph has a value; any of them can be made of another.
    private struct Forms {
        /// In the record's shape.
        var plain: String?
        /// A grid [B, h, w, C] as [B, C, h, w].
        var channelsFirst: String?
        /// Queries, keys and values [B, N, heads, d].
        var heads: [String]?
        /// Rounded to 8-bit codes and back, in the form that its readers multiply.
        var rounded: [Bool: String] = [:]
    }

    let live: LiveNodes
    var trace: ModelTrace { live.trace }
    var constants: Constants { live.constants }
    /// Nil: nothing is quantised.
    let quantization: StaticQuantization?
    /// As what each product appears, by its output.
    let products: [Int: LiveNodes.Form]
    var graph: GraphBuilder

    private var forms: [Int: Forms] = [:]
    private let firstGrids: Set<Int>
    /// Outputs of nodes that an earlier emission did as well.
    private var done: Set<Int> = []
    /// Where the last layer with parameters was: what follows is named after it.
    private(set) var place = ""
    /// Factors of rotary positions by the table that they are made of: one for all blocks.
    private var rotations: [Int: (cosine: String, sine: String)] = [:]

    /// - Parameter element: what weights that are not codes are made of.
    init(_ live: LiveNodes, element: ElementType, quantization: StaticQuantization?) {
        self.live = live
        self.quantization = quantization
        graph = GraphBuilder(name: live.trace.architecture.name, element: element)
        (products, firstGrids) = live.forms(quantized: quantization?.products ?? [])
    }

    /// The whole graph.
    ///
    /// - Throws: `ModelError`, naming what cannot be written; what reading a parameter throws.
    mutating func run() throws -> Onnx_GraphProto {
        let images = graph.input(Name.images, sample: Array(trace.images.shape.dropFirst()))
        let isHalf = graph.element == .float16
        forms[trace.images.id] = Forms(
            plain: isHalf ? graph.add("Cast", [images], Name.images, [.int("to", graph.element.rawValue)]) : images)
        for node in live.nodes where !done.contains(node.output) { try emit(node) }
        let cells = trace.local.shape[0]
        let global = try plain(trace.global.id)
        let local = graph.reshape(try plain(trace.local.id), [-1, cells, trace.local.shape[1]], Name.patch)
        for (name, value) in [(Name.global, global), (Name.patch, local)] {
            if isHalf {
                graph.add("Cast", [value], output: name, [.int("to", ElementType.float.rawValue)])
            } else {
                graph.add("Identity", [value], output: name)
            }
        }
        graph.declareOutput(Name.global, sample: Array(trace.global.shape.dropFirst()))
        graph.declareOutput(Name.patch, sample: trace.local.shape)
        return graph.graph
    }

    private mutating func emit(_ node: Node) throws {
        let parameters = node.inputs.dropFirst().compactMap { constants.parameterName($0) }
        if let parameter = parameters.first {
            place = parameter.split(separator: ".").dropLast().joined(separator: ".")
        }
        switch node.operation {
        case .reshape: reshape(node, try plain(node.inputs[0]))
        case .unfold: break
        case .linear(let hasBias, let activation, _): try linear(node, hasBias: hasBias, activation: activation)
        case .layerNorm(let epsilon): try layerNorm(node, epsilon: epsilon)
        case .groupNorm(let groups, let epsilon): try groupNorm(node, groups: groups, epsilon: epsilon)
        case .l2Normalize(let epsilon): try l2Normalize(node, epsilon: epsilon)
        case .unary(let function): try unary(node, function)
        case .gated: try gated(node)
        case .scaleChannels: try scaleChannels(node)
        case .scaleRows: try scaleRows(node)
        case .residual(nil): try residual(node)
        case .addBroadcast: try addBroadcast(node)
        case .rotate(let heads): try rotate(node, heads: heads)
        case .attention(let heads, let bias, let mask): try attention(node, heads: heads, bias: bias, mask: mask)
        case .depthwiseConv(let kernel): try depthwiseConv(node, kernel: kernel)
        case .pool(let kind, let kernel, let stride, let padding):
            try pool(node, kind, kernel: kernel, stride: stride, padding: padding)
        case .prependToken: try prependToken(node)
        case .gatherRows(let index): try gatherRows(node, index)
        case .permuteTokens(let index): try permuteTokens(node, index)
        case .transposeTokens: set(node, graph.transpose(try plain(node.inputs[0]), [0, 2, 1], label(node)))
        case .meanTokens: try meanTokens(node)
        case .standardize, .residual, .residualOfSamples, .maskTokens, .resamplePositions, .softCrossEntropy,
             .prototypeCrossEntropy:
            throw ModelError("operation \(node.operation.kind) is not part of inference")
        }
    }

    // MARK: Values

    /// A value in the shape that it has in the record, the first axis times the images.
    mutating func plain(_ id: Int) throws -> String {
        if let name = forms[id]?.plain { return name }
        let made: String
        if constants.contains(id) {
            made = try graph.weights(
                constants.values(id), shape: trace.tape.shapes[id], constants.parameterName(id) ?? "constant")
        } else if let name = forms[id]?.channelsFirst {
            made = graph.transpose(name, [0, 2, 3, 1], place)
        } else if let heads = forms[id]?.heads {
            let shape = dimensions(id)
            let joined = heads.map { graph.reshape($0, [shape[0], shape[1], shape[2] / 3], place) }
            made = graph.add("Concat", joined, place, [.int("axis", -1)])
        } else {
            throw ModelError("windows that no product multiplies cannot be exported")
        }
        forms[id, default: Forms()].plain = made
        return made
    }

    /// A grid [B, h, w, C] as [B, C, h, w].
    mutating func channelsFirst(_ id: Int) throws -> String {
        if let name = forms[id]?.channelsFirst { return name }
        let made = graph.transpose(try plain(id), [0, 3, 1, 2], place)
        forms[id, default: Forms()].channelsFirst = made
        return made
    }

    /// Queries, keys and values of [B, N, 3·D], each [B, N, heads, d].
    mutating func heads(_ id: Int, _ count: Int) throws -> [String] {
        if let heads = forms[id]?.heads { return heads }
        let shape = dimensions(id), width = shape[2] / 3
        let parts = graph.add("Split", [try plain(id)], place, [.int("axis", -1)], outputs: 3)
        let made = parts.map { graph.reshape($0, [-1, shape[1], count, width / count], place) }
        forms[id, default: Forms()].heads = made
        return made
    }

    /// A value as 8-bit codes make it, in the form that its readers multiply, once for all of them.
    mutating func rounded(
        _ id: Int, channelsFirst first: Bool, _ make: (inout Self) throws -> String
    ) rethrows -> String {
        if let name = forms[id]?.rounded[first] { return name }
        let made = try make(&self)
        forms[id, default: Forms()].rounded[first] = made
        return made
    }

    /// Whether a grid is made with its channels first: what can be computed so then is.
    func isChannelsFirst(_ id: Int) -> Bool { firstGrids.contains(id) }

    mutating func set(_ node: Node, _ name: String) { forms[node.output, default: Forms()].plain = name }

    mutating func set(_ node: Node, channelsFirst name: String) {
        forms[node.output, default: Forms()].channelsFirst = name
    }

    mutating func set(_ node: Node, heads: [String]) { forms[node.output, default: Forms()].heads = heads }

    /// A grid that is nothing but codes.
    mutating func set(_ node: Node, roundedChannelsFirst name: String) {
        forms[node.output] = Forms(channelsFirst: name, rounded: [true: name])
    }

    /// Shape of the tensor for a value: −1, then as in the record.
    func dimensions(_ id: Int) -> [Int] { [-1] + trace.tape.shapes[id].dropFirst() }

    /// The factors [N, 1, d] of a table of angles, made once.
    mutating func rotation(_ table: Int, _ make: (inout Self) throws -> (String, String)) rethrows -> (String, String) {
        if let known = rotations[table] { return known }
        let made = try make(&self)
        rotations[table] = made
        return made
    }

    // MARK: Nodes

    /// The node's result was made together with an earlier one.
    mutating func skip(_ node: Node) { done.insert(node.output) }

    /// What operators of a node are named after.
    func label(_ node: Node) -> String {
        switch node.operation {
        case .linear, .layerNorm, .groupNorm, .depthwiseConv, .scaleChannels: place
        default: (place.split(separator: ".").dropLast() + ["\(node.operation.kind)"]).joined(separator: ".")
        }
    }

    private mutating func reshape(_ node: Node, _ x: String) {
        set(node, graph.reshape(x, dimensions(node.output), label(node)))
    }

    /// - Throws: `ModelError`, where an operand depends on the image.
    func constant(_ node: Node, _ position: Int, _ what: String) throws -> [Float] {
        guard constants.contains(node.inputs[position]) else {
            throw ModelError("\(what) that depends on the image cannot be exported")
        }
        return try constants.values(node.inputs[position])
    }

    /// The name of the parameter behind an operand.
    func parameterName(_ node: Node, _ position: Int) -> String {
        constants.parameterName(node.inputs[position]) ?? label(node)
    }
}
