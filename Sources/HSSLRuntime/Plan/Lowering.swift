import CSupport
import HSSLGraph

/// Turns the record of a model for one image into steps: fuses what the kernels fuse, computes only what is wanted, and knows no model.
///
/// Values are emitted late, when a step needs them, so that the consumer decides the form: a product takes its activation and its residual connection into
/// its output stage, a norm is quantised as it is computed, and tokens are written straight behind the CLS token, positions already added.
struct Lowering {
    /// Where a value is, or how it will come to be.
    private enum Place {
        /// Element 0; of a value that is kept in part, where element 0 would be.
        case at(Operand)
        case constant(ConstantExpression)
        case product(Product)
        case norm(Node)
        case patches(Node)
        case prefixed(Node)
    }

    private struct Product {
        let node: Node
        var activation: Operation.Activation
        /// The tape's value that it becomes.
        var value: Int
    }

    private struct Codes {
        /// Code of element 0, its row's scale; rows of `leading` bytes.
        let codes: Operand
        let scale: Operand
    }

    private let tape: Tape
    private let nodes: [Node]
    private let demand: Demand
    private let precision: Precision
    private var places: [Int: Place] = [:]
    private var codes: [Int: Codes] = [:]
    /// Element 0 of the values that are kept in binary16, because 8-bit codes are made of them and nothing else.
    private var halves: [Int: Operand] = [:]
    private var storageSizes: [Int] = []
    private var steps: [PlanStep] = []
    /// Of all float products: the threads of a chain are at different ones, each in the part of its rows.
    private var productWorkspace: Operand?
    private var constants: ConstantTable

    /// Steps with their arena.
    struct Result {
        let steps: [PlanStep]
        /// Bytes of each storage.
        let sizes: [Int]
        let arena: ArenaLayout
    }

    /// - Parameters:
    ///   - outputs: values and where each goes in the row of features, in elements.
    ///   - constants: receives what the steps read besides the image.
    /// - Throws: `RuntimeError`, where the record holds what only training uses.
    static func lower(
        _ tape: Tape, outputs: [(value: Tensor, offset: Int)], precision: Precision, constants: inout ConstantTable
    ) throws -> Result {
        let (nodes, roots) = withoutReshapes(tape)
        func root(_ value: Tensor) -> Int { roots[value.id] ?? value.id }
        var lowering = Lowering(tape: tape, nodes: nodes, demand: try Demand(tape, nodes, outputs: outputs.map { root($0.value) }), precision: precision,
                                constants: constants)
        for node in nodes where lowering.demand.ranges[node.output] != nil { try lowering.visit(node) }
        for (value, offset) in outputs {
            let source = try lowering.address(root(value))
            lowering.steps.append(PlanStep(kind: HSSL_STEP_COPY, size: [value.count * 4], x: source, y: .features(offset: offset * 4)))
        }
        constants = lowering.constants
        ArenaLayout.shareResiduals(&lowering.steps, sizes: lowering.storageSizes)
        let chains = RowChains.ranges(lowering.steps)
        for chain in chains { lowering.steps[chain.lowerBound].chain = chain.count }
        let arena = ArenaLayout(sizes: lowering.storageSizes, steps: lowering.steps, chains: chains)
        return Result(steps: lowering.steps, sizes: lowering.storageSizes, arena: arena)
    }

    /// The operations without the reshapes, which move nothing, and for every reshaped value the one that it shares its memory with.
    private static func withoutReshapes(_ tape: Tape) -> ([Node], [Int: Int]) {
        var roots: [Int: Int] = [:]
        var nodes: [Node] = []
        for node in tape.nodes {
            let inputs = node.inputs.map { roots[$0] ?? $0 }
            if case .reshape = node.operation { roots[node.output] = inputs[0] } else { nodes.append(node.reading(inputs)) }
        }
        return (nodes, roots)
    }

    private init(tape: Tape, nodes: [Node], demand: Demand, precision: Precision, constants: ConstantTable) {
        (self.tape, self.nodes, self.demand, self.precision, self.constants) = (tape, nodes, demand, precision, constants)
        for (id, leaf) in tape.leaves {
            switch leaf {
            case .input: places[id] = .at(.image(offset: 0))
            case .parameter(let parameter): places[id] = .constant(.parameter(parameter))
            case .constant: break
            }
        }
    }

    // MARK: Operations

    private mutating func visit(_ node: Node) throws {
        let (inputs, output) = (node.inputs, node.output)
        let width = node.shape.last ?? 1
        switch node.operation {
        case .linear(_, let activation, _): places[output] = .product(Product(node: node, activation: activation, value: output))
        case .layerNorm: places[output] = .norm(node)
        case .prependToken: places[output] = .prefixed(node)
        case .unary(.gelu):
            if case .product(var product)? = places[inputs[0]], product.activation == .none, demand.uses[inputs[0]] == 1 {
                (product.activation, product.value) = (.gelu, output)
                places[output] = .product(product)
            } else {
                let (x, range) = (try address(inputs[0]), wanted(output))
                let y = allocate(output)
                emit(PlanStep(kind: HSSL_STEP_GELU, size: [range.count], x: x.element(range.lowerBound), y: y.element(range.lowerBound)))
            }
        case .residual(let scale):
            guard scale == nil else { throw RuntimeError("stochastic depth is not part of inference") }
            try visitSum(node)
        case .addBroadcast: try visitSum(node)
        case .attention(let heads, false, false):
            let rows = Demand.rows(wanted(output), width: width)
            let (tokens, headDimension) = (Demand.count(tape, output) / width, width / heads)
            let integers = tokens <= Int(HSSL_ATTENTION_INTEGER_TOKENS) && isReadAsCodesOnly(output) && demand.uses[inputs[0]] == 1 && int8Product(inputs[0]) != nil
            let x = try queriesKeysAndValues(inputs[0], of: rows, width: width, half: integers)
            let y = integers ? allocateHalf(output).half(rows.lowerBound * width) : allocate(output).element(rows.lowerBound * width)
            let workspace = allocate(
                byteCount: integers ? hssl_attention_integer_workspace_size(tokens, headDimension) : hssl_attention_workspace_size(1, tokens, heads, headDimension))
            emit(PlanStep(
                kind: integers ? HSSL_STEP_ATTENTION_INTEGER : HSSL_STEP_ATTENTION, size: [tokens, heads, headDimension, rows.lowerBound, rows.upperBound], x: x,
                y: y, workspace: workspace))
        case .unfold(let kernel, let stride, 0, .image) where kernel == stride: places[output] = .patches(node)
        case .depthwiseConv(let kernel):
            let (h, w) = (node.shape[1], node.shape[2])
            let (x, weight, bias) = (try address(inputs[0]), try address(inputs[1]), try address(inputs[2]))
            let workspace = allocate(byteCount: hssl_depthwise_conv_workspace_size(width, kernel))
            emit(PlanStep(
                kind: HSSL_STEP_DEPTHWISE_CONV, size: [h, w, width, kernel], x: x, weight: weight, bias: bias, y: allocate(output, whole: true),
                workspace: workspace))
        case .meanTokens:
            let x = try address(inputs[0])
            emit(PlanStep(kind: HSSL_STEP_MEAN_TOKENS, size: [Demand.count(tape, inputs[0]) / width, width], x: x, y: allocate(output, whole: true)))
        case .l2Normalize(let epsilon):
            let (x, range) = (try address(inputs[0]), wanted(output))
            let rows = Demand.rows(range, width: width)
            let y = allocate(output)
            emit(PlanStep(
                kind: HSSL_STEP_L2_NORMALIZE, size: [rows.count, width], x: x.element(rows.lowerBound * width),
                y: y.element(rows.lowerBound * width), epsilon: epsilon))
        case .permuteTokens(let index), .gatherRows(let index):
            let first = index.first.map(Int.init) ?? 0
            if index.enumerated().allSatisfy({ Int($1) == first + $0 }) { return try view(of: inputs[0], as: node, shift: first * width) }
            // The input may be kept from its first wanted row on only.
            let kept = wanted(inputs[0]).lowerBound / width
            let rows = constants.add(index: index.map { max($0 - Int32(kept), 0) })
            let x = try address(inputs[0])
            emit(PlanStep(
                kind: HSSL_STEP_GATHER, size: [index.count, width], x: x.element(kept * width), weight: rows, y: allocate(output, whole: true)))
        case .resamplePositions(let matrix, let rows):
            guard case .constant(let positions)? = places[inputs[0]] else { throw RuntimeError("positions that depend on the image are not supported") }
            places[output] = .constant(.resampled(positions, matrix: matrix, rows: rows, width: width))
        default:
            throw RuntimeError("operation \(node.operation.kind) is not part of inference")
        }
    }

    /// x + branch, either of which may be a product that ends here.
    private mutating func visitSum(_ node: Node) throws {
        let (x, branch, output) = (node.inputs[0], node.inputs[1], node.output)
        if case .constant(let a)? = places[x], case .constant(let b)? = places[branch] {
            places[output] = .constant(.sum(a, b))
            return
        }
        if case .prefixed(let prefix)? = places[x], demand.uses[x] == 1, case .constant(let positions)? = places[branch] {
            return try emitPrefixed(prefix, into: output, adding: positions)
        }
        for (product, other) in [(branch, x), (x, branch)] {
            guard case .product(let fused)? = places[product], demand.uses[product] == 1 else { continue }
            let residual = try address(other)
            return try emit(fused, wanted: wanted(output), y: allocate(output), residual: residual)
        }
        let (a, b, range) = (try address(x), try address(branch), wanted(output))
        let y = allocate(output)
        emit(PlanStep(
            kind: HSSL_STEP_ADD, size: [range.count], x: a.element(range.lowerBound), residual: b.element(range.lowerBound),
            y: y.element(range.lowerBound)))
    }

    /// Element e of the output is element e + shift of the input.
    private mutating func view(of input: Int, as node: Node, shift: Int) throws {
        if case .constant(let expression)? = places[input] {
            places[node.output] = .constant(.elements(expression, shift..<shift + node.shape.reduce(1, *)))
        } else {
            places[node.output] = .at(try address(input).element(shift))
        }
    }

    // MARK: Values

    private func wanted(_ value: Int) -> Range<Int> { demand.ranges[value] ?? 0..<0 }

    /// Address of element 0 of a value, which is computed now if it was not.
    private mutating func address(_ value: Int) throws -> Operand {
        switch places[value] {
        case .at(let operand)?: return operand
        case .constant(let expression)?: return constants.add(expression, .floats)
        case .product(let product)?:
            let y = allocate(value)
            try emit(product, wanted: wanted(value), y: y, residual: .none)
            return y
        case .norm(let node)?:
            let x = try address(node.inputs[0])
            let y = allocate(value)
            var step = try normStep(node, HSSL_STEP_LAYER_NORM, x: x)
            step.y = y.element(wanted(value).lowerBound)
            emit(step)
            return y
        case .patches(let node)?:
            var step = try patchifyStep(node, HSSL_STEP_PATCHIFY)
            let y = allocate(value, whole: true)
            step.y = y
            emit(step)
            return y
        case .prefixed(let node)?:
            try emitPrefixed(node, into: value, adding: nil)
            return try address(value)
        case nil: throw RuntimeError("the model reads a constant that its record does not hold")
        }
    }

    /// u8 codes of a value [rows, width], quantised once for all products that read it.
    private mutating func quantized(_ value: Int, width: Int) throws -> Codes {
        if let known = codes[value] { return known }
        let rows = Demand.rows(wanted(value), width: width)
        let leading = ProductForm.leading(width)
        let target = allocate(byteCount: rows.count * leading)
        let scale = allocate(byteCount: rows.count * 4)
        var step: PlanStep
        if case .norm(let node)? = places[value], width <= Int(HSSL_PLAN_FUSED_FLOATS), isReadAsCodesOnly(value) {
            step = try normStep(node, HSSL_STEP_LAYER_NORM_QUANTIZE, x: try address(node.inputs[0]))
        } else if case .patches(let node)? = places[value], width <= Int(HSSL_PLAN_FUSED_FLOATS), demand.uses[value] == 1,
            rows.count * width == Demand.count(tape, value) {
            step = try patchifyStep(node, HSSL_STEP_PATCHIFY_QUANTIZE)
        } else if isReadAsCodesOnly(value), let product = int8Product(value) {
            let y = allocateHalf(value)
            try emit(product, wanted: wanted(value), y: y, residual: .none, half: true)
            step = PlanStep(kind: HSSL_STEP_QUANTIZE_F16, size: [rows.count, width], x: y.half(rows.lowerBound * width))
        } else if let x = halves[value] {
            step = PlanStep(kind: HSSL_STEP_QUANTIZE_F16, size: [rows.count, width], x: x.half(rows.lowerBound * width))
        } else {
            let x = try address(value)
            step = PlanStep(kind: HSSL_STEP_QUANTIZE, size: [rows.count, width], x: x.element(rows.lowerBound * width))
        }
        (step.y, step.yScale) = (target, scale)
        emit(step)
        let result = Codes(codes: target.advanced(by: -rows.lowerBound * leading), scale: scale.element(-rows.lowerBound))
        codes[value] = result
        return result
    }

    /// Nothing but int8 products reads the value.
    private func isReadAsCodesOnly(_ value: Int) -> Bool {
        guard precision == .int8, demand.readers[value].count == demand.uses[value] else { return false }
        return demand.readers[value].allSatisfy {
            let node = nodes[$0]
            guard case .linear(_, _, let role) = node.operation, ProductForm(role, precision, inputs: tape.shapes[value].last ?? 1) == .int8 else { return false }
            return node.inputs[0] == value && !node.inputs.dropFirst().contains(value)
        }
    }

    /// The product of codes that will become the value, if it is one and not computed yet.
    private func int8Product(_ value: Int) -> Product? {
        guard case .product(let product)? = places[value], case .linear(_, _, let role) = product.node.operation,
            case .constant(let weight)? = places[product.node.inputs[1]]
        else { return nil }
        return ProductForm(role, precision, inputs: weight.count / (product.node.shape.last ?? 1)) == .int8 ? product : nil
    }

    private mutating func patchifyStep(_ node: Node, _ kind: hssl_plan_kind) throws -> PlanStep {
        guard case .unfold(let patch, _, _, _) = node.operation else { throw RuntimeError("operation \(node.operation.kind) does not make patches") }
        let image = tape.shapes[node.inputs[0]]
        return PlanStep(kind: kind, size: [image[1], image[2], image[3], patch], x: try address(node.inputs[0]))
    }

    private mutating func normStep(_ node: Node, _ kind: hssl_plan_kind, x: Operand) throws -> PlanStep {
        guard case .layerNorm(let epsilon) = node.operation else { throw RuntimeError("operation \(node.operation.kind) is not a norm") }
        let width = node.shape.last ?? 1
        let rows = Demand.rows(wanted(node.output), width: width)
        return PlanStep(
            kind: kind, size: [rows.count, width], x: x.element(rows.lowerBound * width), weight: try address(node.inputs[1]),
            bias: try address(node.inputs[2]), epsilon: epsilon)
    }

    /// What attention reads, [tokens, 3·width]. Of tokens whose attention nobody wants the queries are not computed.
    /// `half`: in binary16, from an int8 product that nothing else reads.
    private mutating func queriesKeysAndValues(_ value: Int, of queries: Range<Int>, width: Int, half: Bool) throws -> Operand {
        guard case .product(let product)? = places[value], demand.uses[value] == 1 else { return try address(value) }
        let tokens = Demand.rows(wanted(value), width: 3 * width)
        let y = half ? allocateHalf(value) : allocate(value)
        if width % ProductForm.panelWidth == 0, queries.count < tokens.count {
            try emit(product, wanted: wanted(value), columns: width..<3 * width, y: y, residual: .none, half: half)
            try emit(product, wanted: queries.lowerBound * 3 * width..<queries.upperBound * 3 * width, columns: 0..<width, y: y, residual: .none, half: half)
        } else {
            try emit(product, wanted: wanted(value), y: y, residual: .none, half: half)
        }
        return y
    }

    /// activation(x·Wᵀ + b) + residual for the wanted elements; `y` and `residual` are the addresses of element 0.
    ///
    /// - Parameters:
    ///   - columns: some outputs only, from the first of a packed panel on.
    ///   - half: of an int8 product that is read as codes only: `y` is binary16, GELU coarse.
    private mutating func emit(
        _ product: Product, wanted range: Range<Int>, columns: Range<Int>? = nil, y: Operand, residual: Operand, half: Bool = false
    ) throws {
        let node = product.node
        guard case .linear(let hasBias, _, let role) = node.operation, case .constant(let weight)? = places[node.inputs[1]] else {
            throw RuntimeError("a product with a weight that depends on the image is not supported")
        }
        let outputs = node.shape.last ?? 1
        let inputs = weight.count / outputs
        let rows = Demand.rows(range, width: outputs)
        let form = ProductForm(role, precision, inputs: inputs)
        guard form != .int8 || inputs <= 65_536 else { throw RuntimeError("a product over \(inputs) elements is too long for int8 (at most 65536)") }

        let columns = columns ?? 0..<outputs, first = rows.lowerBound * outputs + columns.lowerBound
        var step = PlanStep(kind: HSSL_STEP_LINEAR_F32, size: [rows.count, columns.count, inputs, outputs])
        let packed = constants.add(weight, .product(form, outputs: outputs, inputs: inputs))
        step.weight = packed.advanced(by: form.packedSize(outputs: columns.lowerBound, inputs: inputs))
        switch form {
        case .float32, .float16:
            if form == .float16 { step.kind = HSSL_STEP_LINEAR_F16 }
            step.x = try address(node.inputs[0]).element(rows.lowerBound * inputs)
            step.workspace = workspaceOfProducts(byteCount: hssl_gemm_workspace_size(rows.count, columns.count, inputs))
        case .int8:
            step.kind = half ? HSSL_STEP_LINEAR_U8S8_F16 : HSSL_STEP_LINEAR_U8S8
            let x = try quantized(node.inputs[0], width: inputs)
            step.x = x.codes.advanced(by: rows.lowerBound * ProductForm.leading(inputs))
            step.xScale = x.scale.element(rows.lowerBound)
            step.weightScale = packed.advanced(by: ConstantTable.scaleOffset(form, outputs: outputs, inputs: inputs)).element(columns.lowerBound)
        }
        if hasBias { step.bias = try address(node.inputs[2]).element(columns.lowerBound) }
        // Coarse GELU moves ViT-S features by a sixtieth of what rounding weights to binary16 does (CSupport/gemm/README.md).
        if product.activation == .gelu { step.activation = half || form == .float16 ? HSSL_ACTIVATION_GELU_COARSE : HSSL_ACTIVATION_GELU }
        if residual != .none { step.residual = residual.element(first) }
        step.y = half ? y.half(first) : y.element(first)
        emit(step)
    }

    /// [token, x] + positions into `output`: the rows of x are written where they belong, position added in the product's output stage.
    private mutating func emitPrefixed(_ node: Node, into output: Int, adding positions: ConstantExpression?) throws {
        let (x, width) = (node.inputs[0], node.shape.last ?? 1)
        let range = wanted(output)
        let y = allocate(output)
        if range.lowerBound < width {
            var first = try address(node.inputs[1])
            if let positions {
                guard case .constant(let token)? = places[node.inputs[1]] else { throw RuntimeError("a token that depends on the image is not supported") }
                first = constants.add(.sum(token, .elements(positions, 0..<width)), .floats)
            }
            emit(PlanStep(kind: HSSL_STEP_COPY, size: [width * 4], x: first, y: y))
        }
        let tokens = max(range.lowerBound - width, 0)..<max(range.upperBound - width, 0)
        if tokens.isEmpty { return }
        let rest = positions.map { constants.add(.elements($0, width..<Demand.count(tape, output)), .floats) }
        if case .product(let product)? = places[x], demand.uses[x] == 1 {
            return try emit(product, wanted: tokens, y: y.element(width), residual: rest ?? .none)
        }
        let source = try address(x).element(tokens.lowerBound)
        let target = y.element(width + tokens.lowerBound)
        if let rest {
            emit(PlanStep(kind: HSSL_STEP_ADD, size: [tokens.count], x: source, residual: rest.element(tokens.lowerBound), y: target))
        } else {
            emit(PlanStep(kind: HSSL_STEP_COPY, size: [tokens.count * 4], x: source, y: target))
        }
    }

    // MARK: Storage

    private mutating func emit(_ step: PlanStep) { steps.append(step) }

    private mutating func allocate(byteCount: Int) -> Operand {
        storageSizes.append(byteCount)
        return .arena(storage: storageSizes.count - 1, offset: 0)
    }

    private mutating func workspaceOfProducts(byteCount: Int) -> Operand {
        guard byteCount > 0 else { return .none }
        let workspace = productWorkspace ?? allocate(byteCount: 0)
        if case .arena(let storage, _) = workspace { storageSizes[storage] = max(storageSizes[storage], byteCount) }
        productWorkspace = workspace
        return workspace
    }

    /// Memory for the wanted elements of a value (or all); returns the address of element 0.
    private mutating func allocate(_ value: Int, whole: Bool = false) -> Operand {
        let range = whole ? 0..<Demand.count(tape, value) : wanted(value)
        let operand = allocate(byteCount: range.count * 4).element(-range.lowerBound)
        places[value] = .at(operand)
        return operand
    }

    /// The same in binary16.
    private mutating func allocateHalf(_ value: Int) -> Operand {
        let range = wanted(value)
        let operand = allocate(byteCount: range.count * 2).half(-range.lowerBound)
        halves[value] = operand
        return operand
    }
}

extension Operand {
    /// The float32 element `index` after this one.
    func element(_ index: Int) -> Operand { advanced(by: index * 4) }

    /// The binary16 element `index` after this one.
    func half(_ index: Int) -> Operand { advanced(by: index * 2) }
}
