import CSupport
import HSSLGraph
import HSSLModels

/// What a product multiplies. In a plan for int8 that is codes in every product, also where training stays in full
/// precision (`MatrixRole`): per token and per channel the patch embedding loses as little as any other product, and at
/// twice the rate of 16 bits.
enum ProductForm: Hashable {
    case float32, float16, int8

    init(_ role: MatrixRole, _ precision: Precision, inputs: Int) {
        switch (precision, role) {
        case (.float32, _): self = .float32
        case (.float16, _): self = role == .policy ? .float16 : .float32
        case (.int8, .policy): self = .int8
        case (.int8, .full): self = inputs <= 65_536 ? .int8 : .float32
        }
    }

    /// Bytes of a row of codes.
    static func leading(_ width: Int) -> Int { (width + 3) / 4 * 4 }

    /// Bytes of a packed weight without its scales. Packed columns come in panels of `panelWidth`, one after the other.
    func packedSize(outputs: Int, inputs: Int) -> Int {
        switch self {
        case .float32: hssl_gemm_f32_packed_size(outputs, inputs)
        case .float16: hssl_gemm_f16_packed_size(outputs, inputs)
        case .int8: hssl_gemm_u8s8_packed_size(outputs, inputs)
        }
    }

    static let panelWidth = Int(HSSL_GEMM_PANEL)

    /// The code of 0 where codes reach as far below as above.
    static let symmetricZero = UInt8(HSSL_SYMMETRIC_ZERO)
}

/// What a plan reads besides the image: packed weights, biases, positions. Sizes are known before any value is.
struct ConstantTable {
    enum Form: Hashable {
        case floats
        /// A weight [outputs, inputs] for one product; integers, which multiply codes of one `zero`, are followed by
        /// the scales at `ConstantTable.scaleOffset`.
        case product(ProductForm, outputs: Int, inputs: Int, zero: UInt8)
        /// A weight [channels, kernel, kernel] as the convolution reads it.
        case depthwise(channels: Int, kernel: Int)
        case index([Int32])
    }

    private struct Key: Hashable {
        let expression: String
        let form: Form
    }

    private struct Entry {
        let expression: ConstantExpression?
        let form: Form
        let offset: Int
    }

    private var entries: [Entry] = []
    private var known: [Key: Int] = [:]
    private(set) var byteCount = 0
    /// Bytes of the largest tensor as float32, and what filling takes besides at most.
    private(set) var largestTensor = 0
    private(set) var transientBytes = 0

    mutating func add(_ expression: ConstantExpression, _ form: Form) -> Operand {
        add(
            expression, form, key: Key(expression: expression.key, form: form),
            byteCount: Self.size(form, expression.count))
    }

    mutating func add(index: [Int32]) -> Operand {
        add(nil, .index(index), key: Key(expression: "", form: .index(index)), byteCount: index.count * 4)
    }

    private mutating func add(_ expression: ConstantExpression?, _ form: Form, key: Key, byteCount size: Int) -> Operand
    {
        if let index = known[key] { return .constant(index, offset: 0) }
        entries.append(Entry(expression: expression, form: form, offset: byteCount))
        known[key] = entries.count - 1
        byteCount += ArenaLayout.aligned(size)
        if let expression {
            largestTensor = max(largestTensor, expression.count * 4)
            // Two more: halves or codes of it, and what becomes of them.
            transientBytes = max(transientBytes, (expression.countOfAll + 2 * expression.count) * 4)
        }
        return .constant(entries.count - 1, offset: 0)
    }

    func offset(of index: Int) -> Int { entries[index].offset }

    private static func size(_ form: Form, _ count: Int) -> Int {
        switch form {
        case .floats: count * 4
        case .index(let index): index.count * 4
        case .depthwise(let channels, let kernel): hssl_depthwise_conv_workspace_size(channels, kernel)
        case .product(let form, let outputs, let inputs, _):
            form == .int8
                ? scaleOffset(form, outputs: outputs, inputs: inputs) + outputs * 4
                : form.packedSize(outputs: outputs, inputs: inputs)
        }
    }

    /// Where the scales of an integer weight stand, bytes from its start.
    static func scaleOffset(_ form: ProductForm, outputs: Int, inputs: Int) -> Int {
        ArenaLayout.aligned(form.packedSize(outputs: outputs, inputs: inputs))
    }

    // MARK: Filling

    /// Writes every constant into `memory` (`byteCount` bytes, 64-byte aligned).
    func fill(_ memory: UnsafeMutableRawPointer, from weights: some WeightSource) throws {
        for entry in entries {
            let target = memory + entry.offset
            switch (entry.form, entry.expression) {
            case (.index(let index), _):
                index.withUnsafeBytes {
                    target.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(target), byteCount: $0.count)
                }
            case (.floats, let expression?):
                try Self.values(expression, weights).withUnsafeBytes {
                    target.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(target), byteCount: $0.count)
                }
            case (.product(let form, let outputs, let inputs, let zero), let expression?):
                try Self.pack(expression, form, outputs, inputs, zero, to: target, weights)
            case (.depthwise(let channels, let kernel), let expression?):
                hssl_depthwise_conv_pack(channels, kernel, try Self.values(expression, weights), target)
            case (_, nil): break
            }
        }
    }

    private static func values(_ expression: ConstantExpression, _ weights: some WeightSource) throws -> [Float] {
        try expression.values { try weights.values($0.name) }
    }

    private static func pack(
        _ expression: ConstantExpression, _ form: ProductForm, _ outputs: Int, _ inputs: Int, _ zero: UInt8,
        to target: UnsafeMutableRawPointer,
        _ weights: some WeightSource
    ) throws {
        switch form {
        case .float32: hssl_gemm_f32_pack(outputs, inputs, try values(expression, weights), 1, inputs, target)
        case .float16: hssl_gemm_f16_pack(outputs, inputs, try halves(expression, weights), 1, inputs, target)
        case .int8:
            let scales = (target + scaleOffset(form, outputs: outputs, inputs: inputs)).assumingMemoryBound(
                to: Float.self)
            try withCodes(expression, outputs, inputs, scales, weights) {
                hssl_gemm_u8s8_pack(outputs, inputs, $0, 1, inputs, zero, target)
            }
        }
    }

    private static func halves(_ expression: ConstantExpression, _ weights: some WeightSource) throws -> [UInt16] {
        if case .parameter(let parameter) = expression, case .float16(let stored) = try weights.stored(parameter.name) {
            return stored
        }
        let values = try values(expression, weights)
        return [UInt16](unsafeUninitializedCapacity: values.count) { halves, count in
            if let base = halves.baseAddress { hssl_convert_f32_f16(values.count, values, base) }
            count = values.count
        }
    }

    /// Codes of a weight, row after row, and their scales: stored ones, or made here.
    private static func withCodes(
        _ expression: ConstantExpression, _ outputs: Int, _ inputs: Int, _ scales: UnsafeMutablePointer<Float>,
        _ weights: some WeightSource,
        _ body: (UnsafePointer<Int8>) -> Void
    ) throws {
        if case .scaledRows(let weight, let factors) = expression {
            try withCodes(weight, outputs, inputs, scales, weights, body)
            for (row, factor) in try values(factors, weights).enumerated() { scales[row] *= factor }
            return
        }
        guard let parameter = expression.rearranged,
            case .int8(let codes, let scale) = try weights.stored(parameter.name)
        else {
            var codes = [Int8](repeating: 0, count: outputs * inputs)
            hssl_quantize_rows_s8(outputs, inputs, try values(expression, weights), inputs, &codes, inputs, scales)
            return body(codes)
        }
        defer { codes.dropResident() }
        scales.update(from: scale, count: outputs)
        if case .parameter = expression {
            return codes.withBytes { bytes in
                if let codes = bytes.assumingMemoryBound(to: Int8.self).baseAddress { body(codes) }
            }
        }
        // Codes are small integers: in another order they may be had as floats.
        body(try expression.values { _ in codes.withBytes { $0.map { Float(Int8(bitPattern: $0)) } } }.map { Int8($0) })
    }
}

/// Where the values of parameters come from.
protocol WeightSource {
    func stored(_ name: String) throws -> ModelFile.StoredTensor
    func values(_ name: String) throws -> [Float]
}

extension ModelFile: WeightSource {}

/// Parameters in memory, e.g. of a teacher while training: a base declared under `prefix`.
struct ParameterWeights: WeightSource {
    let parameters: ParameterSet
    let prefix: String

    func stored(_ name: String) throws -> ModelFile.StoredTensor { .float32(try values(name)) }

    func values(_ name: String) throws -> [Float] {
        guard let parameter = parameters[prefix + name], parameter.isAllocated else {
            throw RuntimeError("the network has no parameter '\(prefix)\(name)'")
        }
        return parameter.deployedValues
    }
}
