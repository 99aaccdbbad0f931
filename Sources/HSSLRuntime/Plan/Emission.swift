import CSupport
import HSSLGraph

/// Writes nodes as steps, one each, and gives values their storages.
struct Emission {
    private(set) var steps: [PlanStep] = []
    private(set) var storageSizes: [Int] = []
    private(set) var constants: ConstantTable
    /// Scratch of one thread.
    private(set) var workspaceBytes = 0

    private let ranges: [Range<Int>?]
    private let representations: Representations
    private let inputs: Set<Int>
    /// Element 0 of each value; of one that is kept in part, where it would be. Of codes, code 0 and the scale of row
    /// 0.
    private var places: [Int: (values: Operand, scales: Operand)] = [:]
    /// Values that are the same memory as others, and which of their elements they begin with.
    private var parts: [Int: (whole: Int, first: Int)] = [:]
    /// Of all float products: the threads of a chain are at different ones, each in the part of its rows.
    private var productWorkspace: Operand?

    init(_ graph: PlanGraph, _ ranges: [Range<Int>?], _ representations: Representations, _ constants: ConstantTable) {
        (self.ranges, self.representations, self.constants, inputs) = (ranges, representations, constants, graph.inputs)
        let uses = graph.uses
        let views = Set(graph.nodes.compactMap { if case .view = $0.work { $0.output } else { nil } })
        for node in graph.nodes {
            switch node.work {
            case .view(let shift): parts[node.output] = (node.x, shift)
            // Rows behind a token are written where they belong.
            case .prepend(let token)
            where uses[node.x] == 1 && !graph.inputs.contains(node.x) && !views.contains(node.x):
                parts[node.x] = (node.output, token.count)
            default: break
            }
        }
    }

    // MARK: Memory

    private mutating func place(_ value: Int) -> (values: Operand, scales: Operand) {
        if let known = places[value] { return known }
        if inputs.contains(value) { return (.image(offset: 0), .none) }
        if let part = parts[value] { return (address(part.whole).element(part.first), .none) }
        let range = ranges[value] ?? 0..<0
        let placed: (Operand, Operand)
        switch representations[value] {
        case .floats: placed = (allocate(byteCount: range.count * 4).element(-range.lowerBound), .none)
        case .halves: placed = (allocate(byteCount: range.count * 2).half(-range.lowerBound), .none)
        case .codes(let width, _):
            let (rows, leading) = (Demand.rows(range, width: width), ProductForm.leading(width))
            let codes = allocate(byteCount: rows.count * leading).advanced(by: -rows.lowerBound * leading)
            placed = (codes, allocate(byteCount: rows.count * 4).element(-rows.lowerBound))
        }
        places[value] = placed
        return placed
    }

    /// Element 0 of a value.
    private mutating func address(_ value: Int) -> Operand { place(value).values }

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

    private mutating func workspaceOfThreads(byteCount: Int) -> Operand {
        workspaceBytes = max(workspaceBytes, byteCount)
        return .workspace
    }

    private mutating func floats(_ expression: ConstantExpression) -> Operand { constants.add(expression, .floats) }

    /// Element `first` of what is added; its rows are `pitch` bytes apart.
    private mutating func setResidual(of step: inout PlanStep, _ node: PlanNode, first: Int, pitch: Int) {
        switch node.stage.residual {
        case nil: return
        case .value(let value)?: step.residual = address(value).element(first)
        case .constant(let expression)?: step.residual = floats(expression).element(first)
        }
        step.residualPitch = pitch
    }

    // MARK: Nodes

    mutating func emit(_ node: PlanNode) throws {
        if node.range.isEmpty { return }
        switch node.work {
        case .product(let product): try emit(node, product)
        case .layerNorm(let weight, let bias, let epsilon): emitNorm(node, floats(weight), floats(bias), epsilon)
        case .groupNorm(let groups, let weight, let bias, let epsilon):
            let (positions, _) = try node.grid(node.inputShape)
            guard node.width <= Int(HSSL_GROUP_NORM_CHANNELS) else {
                throw RuntimeError(
                    "a group norm of \(node.width) channels is not supported (at most \(HSSL_GROUP_NORM_CHANNELS))")
            }
            var step = PlanStep(
                kind: representations[node.x] == .halves ? HSSL_STEP_GROUP_NORM_F16 : HSSL_STEP_GROUP_NORM,
                size: [positions, node.width, groups, node.codes?.alike == true ? 1 : 0], x: address(node.x),
                weight: floats(weight), bias: floats(bias))
            (step.activation, step.lastActivation, step.epsilon) = (
                node.stage.activation.native, node.stage.last.native, epsilon
            )
            setResidual(of: &step, node, first: 0, pitch: 0)
            if let codes = node.codes {
                (step.codes, step.yScale) = place(codes.value)
                step.zero = representations.zero(of: codes.value)
            }
            if node.codes?.alone != true { step.y = address(node.output) }
            steps.append(step)
        case .elementwise: emitElementwise(node)
        case .scaleChannels(let factors):
            let (rows, width) = (node.rows, node.width), first = rows.lowerBound * width
            steps.append(
                rowwise(
                    PlanStep(
                        kind: HSSL_STEP_SCALE_CHANNELS, size: [rows.count, width], x: address(node.x).element(first),
                        weight: floats(factors),
                        y: address(node.output).element(first)), x: 4 * width, y: 4 * width))
        case .l2Normalize(let epsilon):
            let (rows, width) = (node.rows, node.width), first = rows.lowerBound * width
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_L2_NORMALIZE, size: [rows.count, width], x: address(node.x).element(first),
                    y: address(node.output).element(first),
                    epsilon: epsilon))
        case .attention: emitAttention(node)
        case .unfold(let kernel, let stride, let padding, let source):
            _ = try node.grid(node.inputShape)
            let isCoded = representations[node.output] != .floats, y = place(node.output), x = place(node.x)
            let kind =
                source == .image
                ? (isCoded ? HSSL_STEP_UNFOLD_IMAGE_QUANTIZE : HSSL_STEP_UNFOLD_IMAGE)
                : representations[node.x] != .floats
                ? HSSL_STEP_UNFOLD_CODES : isCoded ? HSSL_STEP_UNFOLD_QUANTIZE : HSSL_STEP_UNFOLD
            var step = PlanStep(
                kind: kind, size: node.inputShape.dropFirst() + [kernel, stride, padding], x: x.values,
                xScale: x.scales, y: y.values, yScale: y.scales)
            step.yPitch = isCoded ? ProductForm.leading(node.width) : 4 * node.width
            step.zero = representations.zero(of: node.output)
            steps.append(step)
        case .depthwiseConv(let kernel, let weight, let bias):
            _ = try node.grid(node.shape)
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_DEPTHWISE_CONV, size: node.shape.dropFirst() + [kernel], x: address(node.x),
                    weight: constants.add(weight, .depthwise(channels: node.width, kernel: kernel)), bias: floats(bias),
                    y: address(node.output)))
        case .pool(let kind, let kernel, let stride, let padding):
            _ = try node.grid(node.inputShape)
            steps.append(
                PlanStep(
                    kind: kind == .max ? HSSL_STEP_MAX_POOL : HSSL_STEP_AVERAGE_POOL,
                    size: node.inputShape.dropFirst() + [kernel, stride, padding],
                    x: address(node.x), y: address(node.output)))
        case .permute(let index, let onCodes): emitPermutation(node, index, onCodes: onCodes)
        case .transpose:
            steps.append(
                PlanStep(kind: HSSL_STEP_TRANSPOSE, size: node.inputShape, x: address(node.x), y: address(node.output)))
        case .mean:
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_MEAN_TOKENS, size: node.inputShape, x: address(node.x), y: address(node.output)))
        case .gated:
            let (rows, width) = (node.rows, node.width), first = rows.lowerBound * width
            steps.append(
                rowwise(
                    PlanStep(
                        kind: HSSL_STEP_GATED, size: [rows.count, width], x: address(node.x).element(2 * first),
                        y: address(node.output).element(first)), x: 8 * width, y: 4 * width))
        case .rotate(let heads, let table):
            let (batch, tokens) = (node.shape[0], node.shape[1])
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_ROTATE, size: [tokens, heads, node.width / (3 * heads), batch], x: address(node.x),
                    weight: floats(table), y: address(node.output)))
        case .prepend(let token): emitPrefix(node, floats(token), count: token.count)
        case .view: break
        case .quantize: emitQuantization(node)
        case .output(let offset):
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_COPY, size: [node.count * 4], x: address(node.x), y: .features(offset: offset * 4)))
        }
    }

    private func rowwise(_ step: PlanStep, x: Int, y: Int) -> PlanStep {
        var step = step
        (step.xPitch, step.yPitch) = (x, y)
        return step
    }

    /// last(activation(x·Wᵀ + b) + residual).
    private mutating func emit(_ node: PlanNode, _ product: PlanNode.Product) throws {
        let (outputs, inputs, columns, form) = (product.outputs, product.inputs, product.columns, product.form)
        guard form != .int8 || inputs <= 65_536 else {
            throw RuntimeError("a product over \(inputs) elements is too long for int8 (at most 65536)")
        }
        let rows = Demand.rows(node.range, width: outputs), first = rows.lowerBound * outputs + columns.lowerBound
        let isHalf = representations[node.output] == .halves

        var step = PlanStep(kind: HSSL_STEP_LINEAR_F32, size: [rows.count, columns.count, inputs, outputs])
        let packed = constants.add(
            product.weight,
            .product(form, outputs: outputs, inputs: inputs, zero: representations.zero(of: node.x)))
        step.weight = packed.advanced(by: form.packedSize(outputs: columns.lowerBound, inputs: inputs))
        let x = place(node.x)
        switch form {
        case .float32, .float16:
            if form == .float16 { step.kind = HSSL_STEP_LINEAR_F16 }
            step.xPitch = 4 * inputs
            step.workspace = workspaceOfProducts(byteCount: hssl_gemm_workspace_size(rows.count, columns.count, inputs))
        case .int8:
            step.kind = isHalf ? HSSL_STEP_LINEAR_U8S8_F16 : HSSL_STEP_LINEAR_U8S8
            step.xPitch = ProductForm.leading(inputs)
            step.xScale = x.scales.element(rows.lowerBound)
            step.weightScale = packed.advanced(by: ConstantTable.scaleOffset(form, outputs: outputs, inputs: inputs))
                .element(columns.lowerBound)
        }
        step.x = x.values.advanced(by: rows.lowerBound * step.xPitch)
        if let bias = product.bias { step.bias = floats(bias).element(columns.lowerBound) }
        // Coarse GELU moves ViT-S features by a sixtieth of what rounding weights to binary16 does
        // (CSupport/gemm/README.md).
        if node.stage.activation == .gelu {
            step.activation = isHalf || form == .float16 ? HSSL_PLAN_GELU_COARSE : HSSL_PLAN_GELU
        }
        setResidual(of: &step, node, first: first, pitch: 4 * outputs)
        step.yPitch = (isHalf ? 2 : 4) * outputs
        step.y = address(node.output).advanced(by: (isHalf ? 2 : 4) * first)
        steps.append(step)
    }

    private mutating func emitNorm(_ node: PlanNode, _ weight: Operand, _ bias: Operand, _ epsilon: Float) {
        let (rows, width) = (node.rows, node.width), y = place(node.output)
        var step = PlanStep(
            kind: HSSL_STEP_LAYER_NORM, size: [rows.count, width], x: address(node.x).element(rows.lowerBound * width),
            weight: weight, bias: bias,
            epsilon: epsilon)
        if representations[node.output] == .floats {
            step.y = y.values.element(rows.lowerBound * width)
            step = rowwise(step, x: 4 * width, y: 4 * width)
        } else {
            step.kind = HSSL_STEP_LAYER_NORM_QUANTIZE
            step.y = y.values.advanced(by: rows.lowerBound * ProductForm.leading(width))
            step.yScale = y.scales.element(rows.lowerBound)
            step = rowwise(step, x: 4 * width, y: ProductForm.leading(width))
        }
        steps.append(step)
    }

    private mutating func emitQuantization(_ node: PlanNode) {
        let (rows, width) = (node.rows, node.width), y = place(node.output), isHalf = representations[node.x] == .halves
        let element = isHalf ? 2 : 4
        var step = PlanStep(
            kind: isHalf ? HSSL_STEP_QUANTIZE_F16 : HSSL_STEP_QUANTIZE, size: [rows.count, width],
            x: address(node.x).advanced(by: element * rows.lowerBound * width),
            y: y.values.advanced(by: rows.lowerBound * ProductForm.leading(width)),
            yScale: y.scales.element(rows.lowerBound))
        step.zero = representations.zero(of: node.output)
        steps.append(rowwise(step, x: element * width, y: ProductForm.leading(width)))
    }

    private mutating func emitElementwise(_ node: PlanNode) {
        let (rows, width, first) = (node.rows, node.width, node.range.lowerBound)
        let isWhole = node.range.count == rows.count * width
        var step = PlanStep(
            kind: HSSL_STEP_ELEMENTWISE, size: isWhole ? [rows.count, width] : [1, node.range.count],
            x: address(node.x).element(first),
            y: address(node.output).element(first))
        (step.activation, step.lastActivation) = (node.stage.activation.native, node.stage.last.native)
        setResidual(of: &step, node, first: first, pitch: isWhole ? 4 * width : 0)
        steps.append(isWhole ? rowwise(step, x: 4 * width, y: 4 * width) : step)
    }

    private mutating func emitAttention(_ node: PlanNode) {
        guard case .attention(let heads, let bias, let mask, let integers) = node.work else { return }
        let (batch, tokens, width) = (node.shape[0], node.shape[1], node.width), headDimension = width / heads
        if bias != nil || mask != nil {
            let workspace = workspaceOfThreads(
                byteCount: hssl_attention_biased_workspace_size(batch, tokens, heads, headDimension))
            let windows = mask.map { $0.count / (tokens * tokens) } ?? 1
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_ATTENTION_BIASED, size: [batch, tokens, heads, headDimension, windows],
                    x: address(node.x),
                    weight: bias.map { floats($0) } ?? .none, bias: mask.map { floats($0) } ?? .none,
                    y: address(node.output), workspace: workspace))
            return
        }
        let queries = batch == 1 ? node.rows : 0..<tokens, first = queries.lowerBound * width
        let bytes =
            integers
            ? hssl_attention_integer_workspace_size(tokens, headDimension)
            : hssl_attention_workspace_size(batch, tokens, heads, headDimension)
        steps.append(
            PlanStep(
                kind: integers ? HSSL_STEP_ATTENTION_INTEGER : HSSL_STEP_ATTENTION,
                size: [tokens, heads, headDimension, queries.lowerBound, queries.upperBound, batch], x: address(node.x),
                y: integers ? address(node.output).half(first) : address(node.output).element(first),
                workspace: workspaceOfThreads(byteCount: bytes)))
    }

    private mutating func emitPermutation(_ node: PlanNode, _ index: [Int32], onCodes: Bool) {
        let (rows, width) = (node.rows, node.width), samples = node.shape.count == 3 ? node.shape[0] : 1
        let from = node.inputShape.reduce(1, *) / (samples * width), wanted = samples == 1 ? rows : 0..<index.count
        // Of a single sample the input may be kept from its first wanted row on only.
        let kept = samples == 1 ? (ranges[node.x]?.lowerBound ?? 0) / width : 0
        let x = place(node.x), y = place(node.output)
        var step = PlanStep(kind: HSSL_STEP_PERMUTE, size: [samples, from, wanted.count, width])
        step.weight = constants.add(index: index[wanted].map { $0 < 0 ? -1 : $0 - Int32(kept) })
        if onCodes {
            let leading = ProductForm.leading(width)
            step.kind = HSSL_STEP_PERMUTE_CODES
            step.zero = representations.zero(of: node.output)
            (step.x, step.xScale) = (x.values.advanced(by: kept * leading), x.scales.element(kept))
            (step.y, step.yScale) = (
                y.values.advanced(by: wanted.lowerBound * leading), y.scales.element(wanted.lowerBound)
            )
        } else {
            step.x = x.values.element(kept * width)
            step.y = y.values.element(wanted.lowerBound * width)
            setResidual(of: &step, node, first: wanted.lowerBound * width, pitch: 0)
        }
        steps.append(step)
    }

    /// [first, x]: the rows of x are in place already, where nothing else reads them.
    private mutating func emitPrefix(_ node: PlanNode, _ first: Operand, count: Int) {
        let (range, y) = (node.range, address(node.output)), wanted = node.range.clamped(to: 0..<count)
        if !wanted.isEmpty {
            steps.append(
                PlanStep(
                    kind: HSSL_STEP_COPY, size: [wanted.count * 4], x: first.element(wanted.lowerBound),
                    y: y.element(wanted.lowerBound)))
        }
        let tokens = max(range.lowerBound - count, 0)..<max(range.upperBound - count, 0)
        guard parts[node.x]?.whole != node.output, !tokens.isEmpty else { return }
        steps.append(
            PlanStep(
                kind: HSSL_STEP_COPY, size: [tokens.count * 4], x: address(node.x).element(tokens.lowerBound),
                y: y.element(count + tokens.lowerBound)))
    }
}

extension PlanNode {
    /// Positions and channels of one sample [1, …, C].
    fileprivate func grid(_ shape: [Int]) throws -> (positions: Int, channels: Int) {
        guard shape.first == 1 else {
            throw RuntimeError("convolutions, pools and group norms of several samples an image are not supported")
        }
        let channels = shape.last ?? 1
        return (shape.reduce(1, *) / channels, channels)
    }
}

extension PlanNode.Activation {
    var native: hssl_plan_activation {
        switch self {
        case .identity: HSSL_PLAN_IDENTITY
        case .gelu: HSSL_PLAN_GELU
        case .relu: HSSL_PLAN_RELU
        }
    }
}

extension Operand {
    /// The float32 element `index` after this one.
    func element(_ index: Int) -> Operand { advanced(by: index * 4) }

    /// The binary16 element `index` after this one.
    func half(_ index: Int) -> Operand { advanced(by: index * 2) }
}
