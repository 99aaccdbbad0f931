import CSupport

/// How a parameter is drawn before training.
public enum Initializer: Sendable, Equatable {
    case zeros
    case ones
    case constant(Float)
    /// Normal(0, σ), redrawn until inside ±2 (timm's `trunc_normal_`: the bounds are absolute).
    case truncatedNormal(standardDeviation: Float)
    /// Uniform in ±bound.
    case uniform(bound: Float)
}

/// What a deployed model holds of a parameter.
public enum DeployedForm: Sendable, Equatable {
    /// Its values.
    case plain
    /// Its rows standardised (`Operation.standardize`), so that the deployed convolution is an ordinary one.
    case standardized(epsilon: Float)

    /// - Parameter values: of a parameter of this shape, row-major.
    package func values(_ values: [Float], shape: [Int]) -> [Float] {
        guard case .standardized(let epsilon) = self else { return values }
        return Tape(mode: .inference, pool: BufferPool()).constant(values, shape: shape).standardized(epsilon: epsilon)
            .array()
    }
}

/// A named, trainable float32 tensor, with its gradient and the packed forms that kernels read.
public final class Parameter {
    /// Name inside its network, e.g. `base.blocks.0.attn.qkv.weight`.
    public let name: String
    public let shape: [Int]
    public let initializer: Initializer
    public let deployedForm: DeployedForm
    /// False for constants and frozen tensors: no gradient is computed.
    package var requiresGradient = true
    private var storage: Buffer?
    private var gradientStorage: Buffer?
    private var packs: [WeightForm: PackedWeight] = [:]

    package init(name: String, shape: [Int], initializer: Initializer, deployedForm: DeployedForm = .plain) {
        self.name = name
        self.shape = shape
        self.initializer = initializer
        self.deployedForm = deployedForm
    }

    public var count: Int { shape.reduce(1, *) }

    /// Identity of the name in streams of random numbers (FNV-1a).
    package var nameHash: UInt64 { name.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 } }

    package var isAllocated: Bool { storage != nil }

    /// The values. Allocated by `ParameterSet.allocate`.
    package var values: UnsafeMutablePointer<Float> {
        guard let storage else { preconditionFailure("parameter \(name) has no memory: it was only declared") }
        return storage.floats
    }

    package var buffer: Buffer? { storage }

    /// What a deployed model holds of the values.
    package var deployedValues: [Float] {
        deployedForm.values(Array(UnsafeBufferPointer(start: values, count: count)), shape: shape)
    }

    /// The gradient, if any was computed since `clearGradient`.
    package var gradient: UnsafeMutablePointer<Float>? { gradientStorage?.floats }

    package func allocate(from pool: BufferPool) {
        storage = pool.zeros(count)
        packs.removeAll()
    }

    /// Gradient memory that backward rules add to; zeroed when first asked for.
    package func gradientAccumulator(from pool: BufferPool) -> UnsafeMutablePointer<Float> {
        if let gradientStorage { return gradientStorage.floats }
        let fresh = pool.zeros(count)
        gradientStorage = fresh
        return fresh.floats
    }

    package func clearGradient() { gradientStorage = nil }

    /// Must follow every change of `values`: packed forms made from the old ones are dropped.
    package func valuesDidChange() { packs.removeAll(keepingCapacity: true) }

    /// The packed form for a kernel: made once per change of the values, or for every use where the pool keeps none.
    package func packed(_ form: WeightForm, from pool: BufferPool) -> PackedWeight {
        if let pack = packs[form] { return pack }
        let pack = PackedWeight(form, values: values, outputs: shape[0], inputs: count / shape[0], pool: pool)
        if pool.keepsPackedWeights { packs[form] = pack }
        return pack
    }

    /// Fills the values from `initializer`; the draw depends on (seed, name) only.
    package func initialize(seed: UInt64) {
        var random = CounterRandom(seed: seed, stream: 0x494E_4954, nameHash)
        let values = self.values
        switch initializer {
        case .zeros: for i in 0..<count { values[i] = 0 }
        case .ones: for i in 0..<count { values[i] = 1 }
        case .constant(let value): for i in 0..<count { values[i] = value }
        case .truncatedNormal(let deviation):
            for i in 0..<count {
                var draw = random.normal() * deviation
                while abs(draw) > 2 { draw = random.normal() * deviation }
                values[i] = draw
            }
        case .uniform(let bound): for i in 0..<count { values[i] = random.uniform(-bound, bound) }
        }
        valuesDidChange()
    }
}

/// The parameters of one network, in the order of declaration, found by name.
public final class ParameterSet {
    public private(set) var all: [Parameter] = []
    private var byName: [String: Parameter] = [:]

    public init() {}

    public subscript(name: String) -> Parameter? { byName[name] }

    package func declare(
        _ name: String, shape: [Int], initializer: Initializer, deployedForm: DeployedForm = .plain
    ) -> Parameter {
        precondition(byName[name] == nil, "parameter \(name) is declared twice")
        let parameter = Parameter(name: name, shape: shape, initializer: initializer, deployedForm: deployedForm)
        all.append(parameter)
        byName[name] = parameter
        return parameter
    }

    /// Memory for every parameter, zeroed.
    package func allocate(from pool: BufferPool) { for parameter in all { parameter.allocate(from: pool) } }

    /// Draws every parameter from its initializer.
    package func initialize(seed: UInt64) { for parameter in all { parameter.initialize(seed: seed) } }

    package func clearGradients() { for parameter in all { parameter.clearGradient() } }

    public var count: Int { all.reduce(0) { $0 + $1.count } }
}

/// A prefix under which a module declares its parameters: names are spelt out, never reflected.
public struct ParameterScope {
    package let set: ParameterSet
    package let prefix: String

    public init(_ set: ParameterSet, prefix: String = "") {
        self.set = set
        self.prefix = prefix
    }

    package func callAsFunction(_ name: String) -> ParameterScope { ParameterScope(set, prefix: prefix + name + ".") }

    package func declare(
        _ name: String, _ shape: [Int], _ initializer: Initializer, deployedForm: DeployedForm = .plain
    ) -> Parameter {
        set.declare(prefix + name, shape: shape, initializer: initializer, deployedForm: deployedForm)
    }
}
