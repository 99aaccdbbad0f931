import CSupport

/// What a value on a tape is, when no operation made it.
package enum Leaf {
    case input
    case constant
    case parameter(Parameter)
}

/// One recorded operation.
package struct Node {
    package let operation: Operation
    /// Value identities, in the operation's order.
    package let inputs: [Int]
    package let output: Int
    package let shape: [Int]
    /// What the backward rule reads, in the operation's own order (see `Operation`).
    package let saved: [Saved]
    /// The tape's policy when this was recorded.
    package let precision: Precision
    /// Its place among the values of the tape, reshapes not counted: the key of its stochastic rounding.
    package let ordinal: Int
}

extension Node {
    /// The same operation on other values.
    package func reading(_ inputs: [Int]) -> Node {
        Node(
            operation: operation, inputs: inputs, output: output, shape: shape, saved: saved, precision: precision,
            ordinal: ordinal)
    }
}

/// Memory kept for the backward pass.
package enum Saved {
    case floats(Buffer)
    /// u8 codes [rows, leading] with one scale a row.
    case codes(Buffer, leading: Int, scale: Buffer)
    case halves(Buffer)
    /// Not needed by this node (a frozen weight needs no input).
    case nothing

    package var floats: UnsafeMutablePointer<Float> {
        guard case .floats(let buffer) = self else { preconditionFailure("saved value is not float32") }
        return buffer.floats
    }

    /// The first `count` elements of float32 or binary16 memory as float32: a fresh buffer for the latter.
    package func widened(count: Int, pool: BufferPool) -> Buffer {
        switch self {
        case .floats(let buffer): return buffer
        case .halves(let half):
            let buffer = pool.floats(count)
            hssl_convert_f16_f32(count, half.halves, buffer.floats)
            return buffer
        case .codes, .nothing: preconditionFailure("saved value is not floating point")
        }
    }
}

/// Records operations as model code calls them: the single definition that training, the runtime and export read.
///
/// Not thread-safe: one thread records on a tape. Kernels inside use the threads of the session or run that the code
/// belongs to, or else those of the process.
public final class Tape {
    public enum Mode: Sendable {
        /// Nodes without values: what the runtime and export read.
        case shapes
        /// Values without nodes.
        case inference
        /// Values, nodes, and what the backward pass needs.
        case training
    }

    public let mode: Mode
    /// Policy of the products recorded now.
    public private(set) var precision: Precision
    package let pool: BufferPool
    /// Key of the stochastic rounding of this tape's backward pass: (seed, step, micro-batch) combined by the caller.
    package let roundingKey: UInt64

    /// Where int8 products report what their codes look like; nil: they do not.
    package var statistics: QuantizationStatistics?

    package private(set) var nodes: [Node] = []
    package private(set) var shapes: [[Int]] = []
    package private(set) var leaves: [Int: Leaf] = [:]
    /// Values of the constants, on tapes of shapes too: window masks and the like reach the plan through them.
    package private(set) var constants: [Int: [Float]] = [:]
    private var reshapes = 0
    private var parameterIDs: [ObjectIdentifier: Int] = [:]

    public init(mode: Mode, precision: Precision = .float32, pool: BufferPool, roundingKey: UInt64 = 0) {
        self.mode = mode
        self.precision = precision
        self.pool = pool
        self.roundingKey = roundingKey
    }

    package var computes: Bool { mode != .shapes }

    /// Records what `body` calls under another policy.
    package func computing<T>(at precision: Precision, _ body: () -> T) -> T {
        let outer = self.precision
        defer { self.precision = outer }
        self.precision = precision
        return body()
    }

    /// A tensor that the caller fills (images). No gradient.
    public func input(shape: [Int]) -> Tensor {
        leaf(.input, shape: shape, storage: computes ? pool.floats(shape.reduce(1, *)) : nil)
    }

    /// A copy of `values` as a constant.
    public func constant(_ values: [Float], shape: [Int]) -> Tensor {
        precondition(values.count == shape.reduce(1, *), "\(values.count) values for shape \(shape)")
        guard computes else {
            let tensor = leaf(.constant, shape: shape, storage: nil)
            constants[tensor.id] = values
            return tensor
        }
        let buffer = pool.floats(values.count)
        buffer.floats.update(from: values, count: values.count)
        return leaf(.constant, shape: shape, storage: buffer)
    }

    package func constant(shape: [Int], storage: Buffer?) -> Tensor { leaf(.constant, shape: shape, storage: storage) }

    /// A parameter as a value; the same parameter is one value however often it is used.
    package func parameter(_ parameter: Parameter) -> Tensor {
        let key = ObjectIdentifier(parameter)
        let id: Int
        if let known = parameterIDs[key] {
            id = known
        } else {
            id = newValue(parameter.shape)
            leaves[id] = .parameter(parameter)
            parameterIDs[key] = id
        }
        return Tensor(shape: parameter.shape, id: id, storage: computes ? parameter.buffer : nil, tape: self,
                      requiresGradient: mode == .training && parameter.requiresGradient)
    }

    private func leaf(_ leaf: Leaf, shape: [Int], storage: Buffer?) -> Tensor {
        let id = newValue(shape)
        leaves[id] = leaf
        return Tensor(shape: shape, id: id, storage: storage, tape: self, requiresGradient: false)
    }

    private func newValue(_ shape: [Int]) -> Int {
        shapes.append(shape)
        return shapes.count - 1
    }

    /// The same elements as `tensor` in another shape: a value of its own that shares the memory.
    func recordReshape(_ tensor: Tensor, shape: [Int]) -> Tensor {
        let id = newValue(shape)
        reshapes += 1
        if !computes || tensor.requiresGradient {
            append(.reshape, [tensor], id, shape, saved: [])
            if tensor.requiresGradient { gradientValues.formUnion([id, tensor.id]) }
        }
        return Tensor(
            shape: shape, id: id, storage: tensor.storage, tape: self, requiresGradient: tensor.requiresGradient)
    }

    private func append(_ operation: Operation, _ inputs: [Tensor], _ id: Int, _ shape: [Int], saved: [Saved]) {
        nodes.append(Node(
            operation: operation, inputs: inputs.map(\.id), output: id, shape: shape, saved: saved,
            precision: precision, ordinal: id - reshapes))
    }

    /// Appends an operation whose result `compute` writes into fresh memory.
    ///
    /// - Parameters:
    ///   - compute: writes the output and returns what the backward rule reads; `keeps` says whether anything has to be
    ///     kept.
    func record(
        _ operation: Operation, _ inputs: [Tensor], shape: [Int],
        compute: (_ output: UnsafeMutablePointer<Float>, _ keeps: Bool) -> [Saved]
    ) -> Tensor {
        precondition(inputs.allSatisfy { $0.tape === self }, "operands of \(operation.kind) are on different tapes")
        let id = newValue(shape)
        guard computes else {
            append(operation, inputs, id, shape, saved: [])
            return Tensor(shape: shape, id: id, storage: nil, tape: self, requiresGradient: false)
        }
        let needsGradient = mode == .training && inputs.contains { $0.requiresGradient }
        let output = pool.floats(shape.reduce(1, *))
        var saved = compute(output.floats, needsGradient)
        if needsGradient {
            switch operation.savesOutput {
            case .no: break
            case .exactly: saved.append(.floats(output))
            case .asActivation: saved.append(activation(output, count: shape.reduce(1, *)))
            }
            append(operation, inputs, id, shape, saved: saved)
            gradientValues.insert(id)
            for input in inputs where input.requiresGradient { gradientValues.insert(input.id) }
        }
        return Tensor(shape: shape, id: id, storage: output, tape: self, requiresGradient: needsGradient)
    }

    /// What the backward pass keeps of an activation: binary16 under the reduced policies. Their gradients carry more
    /// rounding than that, and activations are most of a step's memory. Nobody else holds the float32 memory for long:
    /// a residual connection keeps none of its operands. (Beyond 65504 the gradient is not finite, and the update is
    /// skipped.)
    func activation(_ buffer: Buffer, count: Int) -> Saved {
        guard precision != .float32 else { return .floats(buffer) }
        let half = pool.allocate(byteCount: 2 * count)
        hssl_convert_f32_f16(count, buffer.floats, half.halves)
        return .halves(half)
    }

    /// Values through which a gradient flows.
    private var gradientValues: Set<Int> = []
    package func wantsGradient(_ id: Int) -> Bool { gradientValues.contains(id) }

    /// Takes the last node off the tape, so that what it kept is freed as the backward pass proceeds.
    package func popLastNode() -> Node? { nodes.popLast() }

    /// The parameter behind a value, if it is one.
    package func parameter(of id: Int) -> Parameter? {
        if case .parameter(let parameter)? = leaves[id] { return parameter }
        return nil
    }
}

extension Tape {
    /// Multiply-adds of the recorded products: linear layers (convolutions are such), attention and depthwise
    /// convolutions. What else there is grows with the elements alone.
    package var multiplyAdds: Int {
        nodes.reduce(0) { sum, node in
            let count = node.shape.reduce(1, *)
            switch node.operation {
            case .linear:
                let weight = shapes[node.inputs[1]]
                return sum + count / weight[0] * weight.reduce(1, *)
            case .attention:
                // q·kᵀ and its softmax times v: [B, N, D].
                return sum + 2 * count * node.shape[1]
            case .depthwiseConv(let kernel): return sum + count * kernel * kernel
            default: return sum
            }
        }
    }
}
