import CSupport

/// Where a step reads or writes while a plan is being made: storages and constants have no address yet. Offsets are
/// bytes.
enum Operand: Equatable {
    case none
    case image(offset: Int)
    /// May be negative for a value of which only the later elements are kept.
    case arena(storage: Int, offset: Int)
    case constant(Int, offset: Int)
    case features(offset: Int)
    /// Scratch of the threads: what one step leaves there no other reads.
    case workspace

    func advanced(by bytes: Int) -> Operand {
        switch self {
        case .none, .workspace: self
        case .image(let offset): .image(offset: offset + bytes)
        case .arena(let storage, let offset): .arena(storage: storage, offset: offset + bytes)
        case .constant(let index, let offset): .constant(index, offset: offset + bytes)
        case .features(let offset): .features(offset: offset + bytes)
        }
    }
}

/// A step of `hssl_plan_run` before addresses are given; see CSupport.h for what each kind reads.
struct PlanStep {
    var kind: hssl_plan_kind
    var size: [Int]
    var x = Operand.none
    var xScale = Operand.none
    var weight = Operand.none
    var weightScale = Operand.none
    var bias = Operand.none
    var residual = Operand.none
    var y = Operand.none
    var codes = Operand.none
    var yScale = Operand.none
    var workspace = Operand.none
    var activation = HSSL_PLAN_IDENTITY
    var lastActivation = HSSL_PLAN_IDENTITY
    /// The code of 0 in codes that the step makes or moves.
    var zero = ProductForm.symmetricZero
    var epsilon: Float = 0
    /// Bytes from one row to the next, of steps that treat each row alone; 0 for others.
    var xPitch = 0, residualPitch = 0, yPitch = 0
    /// See `hssl_plan_step`; given once all steps are known.
    var chain = 1

    var operands: [Operand] { [x, xScale, weight, weightScale, bias, residual, y, codes, yScale, workspace] }

    mutating func replace(storage old: Int, by new: Int) {
        func renamed(_ operand: Operand) -> Operand {
            if case .arena(old, let offset) = operand { .arena(storage: new, offset: offset) } else { operand }
        }
        (x, xScale, weight, weightScale, bias) = (
            renamed(x), renamed(xScale), renamed(weight), renamed(weightScale), renamed(bias)
        )
        (residual, y, codes, yScale, workspace) = (
            renamed(residual), renamed(y), renamed(codes), renamed(yScale), renamed(workspace)
        )
    }

    /// - Parameter address: gives space and final offset.
    func native(_ address: (Operand) -> hssl_plan_operand) -> hssl_plan_step {
        var step = hssl_plan_step()
        step.kind = kind
        step.activation = activation
        step.last_activation = lastActivation
        (step.x_pitch, step.residual_pitch, step.y_pitch) = (xPitch, residualPitch, yPitch)
        step.zero = zero
        step.epsilon = epsilon
        step.chain = chain
        withUnsafeMutableBytes(of: &step.size) { sizes in
            for (position, value) in size.enumerated() {
                sizes.storeBytes(of: value, toByteOffset: position * MemoryLayout<Int>.stride, as: Int.self)
            }
        }
        step.x = address(x)
        step.x_scale = address(xScale)
        step.weight = address(weight)
        step.weight_scale = address(weightScale)
        step.bias = address(bias)
        step.residual = address(residual)
        step.y = address(y)
        step.codes = address(codes)
        step.y_scale = address(yScale)
        step.workspace = address(workspace)
        return step
    }
}

extension hssl_plan_kind {
    var isGroupNorm: Bool { self == HSSL_STEP_GROUP_NORM || self == HSSL_STEP_GROUP_NORM_F16 }

    var isLinear: Bool {
        [HSSL_STEP_LINEAR_F32, HSSL_STEP_LINEAR_F16, HSSL_STEP_LINEAR_U8S8, HSSL_STEP_LINEAR_U8S8_F16].contains(self)
    }
}
