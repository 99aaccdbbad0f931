import HSSLGraph

/// The record of a model for one image as operations of a plan: what passes rewrite until every node is one step.
///
/// Values are those of the record, without reshapes, which move nothing; passes add values of their own.
struct PlanGraph {
    var nodes: [PlanNode] = []
    /// Elements of each value.
    private(set) var counts: [Int]
    /// What does not depend on the image.
    private(set) var constants: [Int: ConstantExpression] = [:]
    /// The image.
    private(set) var inputs: Set<Int> = []
    /// The value that a reshaped one shares its memory with.
    private var roots: [Int: Int] = [:]

    /// - Parameter outputs: values and where each goes in the row of features, in elements.
    /// - Throws: `RuntimeError` for what a plan cannot do, by name.
    init(_ tape: Tape, outputs: [(value: Tensor, offset: Int)]) throws {
        counts = tape.shapes.map { $0.reduce(1, *) }
        for (value, leaf) in tape.leaves {
            switch leaf {
            case .input: inputs.insert(value)
            case .parameter(let parameter): constants[value] = .parameter(parameter)
            case .constant:
                constants[value] = tape.constants[value].map { .values($0, shape: tape.shapes[value], value: value) }
            }
        }
        var read = Set(outputs.map(\.value.id))
        let live = tape.nodes.reversed().filter { node in
            guard read.contains(node.output) else { return false }
            read.formUnion(node.inputs)
            return true
        }
        for node in live.reversed() { try add(node, tape) }
        for (value, offset) in outputs {
            guard constants[value.id] == nil else {
                throw RuntimeError("features that do not depend on the image are not supported")
            }
            nodes.append(
                PlanNode(
                    .output(offset: offset), x: root(value.id), output: newValue(count: value.count), value.shape,
                    value.shape))
        }
    }

    mutating func newValue(count: Int) -> Int {
        counts.append(count)
        return counts.count - 1
    }

    private func root(_ value: Int) -> Int { roots[value] ?? value }

    /// How many nodes read each value.
    var uses: [Int] {
        var uses = Array(repeating: 0, count: counts.count)
        for node in nodes { for value in node.values { uses[value] += 1 } }
        return uses
    }

    // MARK: One recorded operation

    private mutating func add(_ node: Node, _ tape: Tape) throws {
        let (output, shape) = (node.output, node.shape)
        let known = node.inputs.map { constants[$0] }
        if known.allSatisfy({ $0 != nil }) {
            // Run once, when the model is loaded.
            constants[output] = .operation(node.operation, known.compactMap { $0 }, shape: shape, value: output)
            return
        }
        let inputShapes = node.inputs.map { tape.shapes[$0] }
        func constant(_ position: Int, _ what: String) throws -> ConstantExpression {
            guard let expression = known[position] else {
                throw RuntimeError("\(what) that depends on the image is not supported")
            }
            return expression
        }
        func append(_ work: PlanNode.Work, x: Int = 0, stage: PlanNode.Stage = .init()) throws {
            guard known[x] == nil else {
                throw RuntimeError(
                    "operation \(node.operation.kind) of a constant with what depends on the image is not supported")
            }
            nodes.append(PlanNode(work, x: root(node.inputs[x]), output: output, inputShapes[x], shape, stage: stage))
        }
        switch node.operation {
        case .reshape: roots[output] = root(node.inputs[0])
        case .unfold(let kernel, let stride, let padding, let source):
            try append(.unfold(kernel: kernel, stride: stride, padding: padding, source: source))
        case .linear(let hasBias, let activation, let role):
            let weight = try constant(1, "the weight of a product"),
                bias = hasBias ? try constant(2, "the bias of a product") : nil
            try append(
                .product(
                    .init(
                        weight: weight, bias: bias, role: role, outputs: shape.last ?? 1,
                        inputs: inputShapes[0].last ?? 1)),
                stage: .init(activation: activation == .gelu ? .gelu : .identity))
        case .layerNorm(let epsilon):
            try append(
                .layerNorm(
                    weight: constant(1, "the weight of a norm"), bias: constant(2, "the bias of a norm"),
                    epsilon: epsilon))
        case .groupNorm(let groups, let epsilon):
            try append(
                .groupNorm(
                    groups: groups, weight: constant(1, "the weight of a norm"),
                    bias: constant(2, "the bias of a norm"), epsilon: epsilon))
        case .unary(let function): try append(.elementwise, stage: .init(activation: function == .gelu ? .gelu : .relu))
        case .gated: try append(.gated)
        case .rotate(let heads): try append(.rotate(heads: heads, table: constant(1, "a table of angles")))
        case .attention(let heads, let bias, let mask):
            try append(
                .attention(
                    heads: heads, bias: bias ? constant(1, "the bias of attention") : nil,
                    mask: mask ? constant(node.inputs.count - 1, "the mask of attention") : nil, integers: false))
        case .depthwiseConv(let kernel):
            try append(
                .depthwiseConv(
                    kernel: kernel, weight: constant(1, "the weight of a convolution"),
                    bias: constant(2, "the bias of a convolution")))
        case .pool(let kind, let kernel, let stride, let padding):
            try append(.pool(kind, kernel: kernel, stride: stride, padding: padding))
        case .scaleChannels: try append(.scaleChannels(constant(1, "the factors of channels")))
        case .residual(let scale):
            guard scale == nil else { throw RuntimeError("stochastic depth is not part of inference") }
            // The branch is what products end in: it is the one that takes the other as its residual.
            if let shortcut = known[0] {
                return try append(.elementwise, x: 1, stage: .init(residual: .constant(shortcut)))
            }
            if let branch = known[1] { return try append(.elementwise, stage: .init(residual: .constant(branch))) }
            try append(.elementwise, x: 1, stage: .init(residual: .value(root(node.inputs[0]))))
        case .addBroadcast:
            guard shape.first == 1 || inputShapes[1] == shape else {
                throw RuntimeError("operation addBroadcast over several samples is not supported")
            }
            if let x = known[0] { return try append(.elementwise, x: 1, stage: .init(residual: .constant(x))) }
            if let added = known[1] { return try append(.elementwise, stage: .init(residual: .constant(added))) }
            try append(.elementwise, x: 1, stage: .init(residual: .value(root(node.inputs[0]))))
        case .prependToken:
            guard shape[0] == 1 else {
                throw RuntimeError("operation prependToken over several samples is not supported")
            }
            try append(.prepend(token: constant(1, "a token")))
        case .gatherRows(let index): try append(Self.moved(index, samples: 1, width: shape.last ?? 1))
        case .permuteTokens(let index): try append(Self.moved(index, samples: shape[0], width: shape[2]))
        case .transposeTokens: try append(.transpose)
        case .meanTokens: try append(.mean)
        case .l2Normalize(let epsilon): try append(.l2Normalize(epsilon: epsilon))
        case .standardize, .maskTokens, .residualOfSamples, .resamplePositions, .scaleRows, .softCrossEntropy,
            .prototypeCrossEntropy:
            throw RuntimeError("operation \(node.operation.kind) is not part of inference")
        }
    }

    /// Rows that follow one another stay where they are.
    private static func moved(_ index: [Int32], samples: Int, width: Int) -> PlanNode.Work {
        let first = index.first ?? 0
        if samples == 1, first >= 0, index.enumerated().allSatisfy({ Int($1) == Int(first) + $0 }) {
            return .view(shift: Int(first) * width)
        }
        return .permute(index, onCodes: false)
    }
}

/// One operation of a plan.
struct PlanNode {
    struct Product {
        var weight: ConstantExpression
        var bias: ConstantExpression?
        let role: MatrixRole
        let outputs, inputs: Int
        /// The outputs that are computed.
        var columns: Range<Int>
        var form = ProductForm.float32

        init(weight: ConstantExpression, bias: ConstantExpression?, role: MatrixRole, outputs: Int, inputs: Int) {
            (self.weight, self.bias, self.role, self.outputs, self.inputs) = (weight, bias, role, outputs, inputs)
            columns = 0..<outputs
        }
    }

    enum Work {
        case unfold(kernel: Int, stride: Int, padding: Int, source: Operation.WindowSource)
        case product(Product)
        case layerNorm(weight: ConstantExpression, bias: ConstantExpression, epsilon: Float)
        case groupNorm(groups: Int, weight: ConstantExpression, bias: ConstantExpression, epsilon: Float)
        /// x as it is: all that happens is in the stage.
        case elementwise
        case scaleChannels(ConstantExpression)
        case gated
        case rotate(heads: Int, table: ConstantExpression)
        /// `integers`: over 8-bit codes.
        case attention(heads: Int, bias: ConstantExpression?, mask: ConstantExpression?, integers: Bool)
        case depthwiseConv(kernel: Int, weight: ConstantExpression, bias: ConstantExpression)
        case pool(Operation.Pool, kernel: Int, stride: Int, padding: Int)
        case permute([Int32], onCodes: Bool)
        case transpose
        case prepend(token: ConstantExpression)
        /// Element e of the output is element e + shift of the input.
        case view(shift: Int)
        case mean
        case l2Normalize(epsilon: Float)
        /// x → u8 codes, a scale a row.
        case quantize
        /// To the row of features, where element 0 is at the offset.
        case output(offset: Int)
    }

    enum Activation { case identity, gelu, relu }
    enum Addend {
        case value(Int)
        case constant(ConstantExpression)
    }

    /// What happens to the result, in this order.
    struct Stage {
        var activation = Activation.identity
        var residual: Addend?
        var last = Activation.identity

        /// Whether it only raises what is below a floor, if anything.
        var isFloor: Bool { residual == nil && activation != .gelu && last != .gelu }

        /// The activation that the result comes from.
        var result: Activation { last != .identity || residual != nil ? last : activation }
    }

    var work: Work
    var x: Int
    var output: Int
    /// As the operation sees them: the axis that counts samples is the first.
    let inputShape, shape: [Int]
    var stage: Stage
    /// The value that holds the codes of the output, where the node makes them, too; whether nothing reads the output
    /// itself, and whether all rows have one scale.
    var codes: (value: Int, alone: Bool, alike: Bool)?
    /// Elements of the output that are computed; see `Demand`.
    var range = 0..<0

    init(_ work: Work, x: Int, output: Int, _ inputShape: [Int], _ shape: [Int], stage: Stage = Stage()) {
        (self.work, self.x, self.output, self.inputShape, self.shape, self.stage) = (
            work, x, output, inputShape, shape, stage
        )
    }

    /// Channels of a row of the output.
    var width: Int { shape.last ?? 1 }
    var count: Int { shape.reduce(1, *) }
    /// Rows that cover the computed elements.
    var rows: Range<Int> { Demand.rows(range, width: width) }

    var residualValue: Int? { if case .value(let value)? = stage.residual { value } else { nil } }
    /// What it reads that depends on the image.
    var values: [Int] { [x] + (residualValue.map { [$0] } ?? []) }

    var product: Product? { if case .product(let product) = work { product } else { nil } }
    var isPlain: Bool { stage.activation == .identity && stage.residual == nil && stage.last == .identity }
}
