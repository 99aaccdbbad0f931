import CSupport
import HSSLGraph
#if canImport(Glibc)
import Glibc
#endif

/// AdamW with per-tensor gradient clipping, each tensor counting its own updates, and the teacher's EMA in the same
/// walk over memory.
///
/// g ← g·min(1, clip/(‖g‖ + 1e-6)); p ← p(1 − lr·wd); p ← p − lr·m̂/(√v̂ + ε). Decay applies to tensors of rank > 1
/// that are not biases, so `cls_token`, `pos_embed` and `mask_token` decay too. Source: Loshchilov & Hutter, ICLR 2019;
/// clipping and decay groups as DINO/iBOT.
package final class AdamW {
    package static let beta1: Float = 0.9
    package static let beta2: Float = 0.999
    package static let epsilon: Float = 1e-8

    /// Moments of one tensor.
    package final class State {
        package let moments: Moments
        package var step = 0

        init(_ parameter: Parameter, storage: MomentStorage, pool: BufferPool) {
            let count = parameter.count
            if storage == .int8, AdamW.isCoded(parameter) {
                let blocks = AdamW.blocks(count)
                moments = .int8(
                    first: .init(count: count, blocks: blocks, pool: pool),
                    second: .init(count: count, blocks: blocks, pool: pool))
            } else {
                moments = .float32(first: pool.zeros(count), second: pool.zeros(count))
            }
        }
    }

    package enum Moments {
        case float32(first: Buffer, second: Buffer)
        case int8(first: Codes, second: Codes)
    }

    /// A moment in 8 bits an element; the format is in CSupport/optimizer/README.md.
    package struct Codes {
        package let codes: Buffer
        /// [blocks]
        package let scale: Buffer

        init(count: Int, blocks: Int, pool: BufferPool) {
            codes = pool.allocate(byteCount: count)
            codes.zero()
            scale = pool.zeros(blocks)
        }
    }

    package let parameters: [Parameter]
    package private(set) var states: [State]
    /// The teacher's tensors, in the order of `parameters`; nil for what the student alone has.
    private let followers: [Parameter?]
    private let seed: UInt64

    /// - Parameter seed: of the stochastic rounding of coded moments.
    package init(
        student: ParameterSet, teacher: ParameterSet?, storage: MomentStorage, seed: UInt64, pool: BufferPool
    ) {
        parameters = student.all
        followers = parameters.map { teacher?[$0.name] }
        precondition(
            followers.count { $0 != nil } == teacher?.all.count ?? 0,
            "the teacher has other parameters than the student")
        states = parameters.map { State($0, storage: storage, pool: pool) }
        self.seed = seed
    }

    /// L2 norm of each tensor's gradient (nil: none was computed).
    package func gradientNorms() -> [Double?] {
        parameters.map { parameter in parameter.gradient.map { hssl_sum_squares(parameter.count, $0).squareRoot() } }
    }

    /// One update of the student; every tensor of the teacher follows, in float32: its updates would vanish in fp16.
    ///
    /// - Parameters:
    ///   - norms: from `gradientNorms`, all finite.
    ///   - clip: largest norm of one tensor's gradient; 0 does not clip.
    ///   - frozen: names that are left alone entirely: no decay, no moment, no count.
    ///   - momentum: share of itself that the teacher keeps.
    package func update(
        norms: [Double?], learningRate: Float, weightDecay: Float, clip: Float, frozen: Set<String>, momentum: Float
    ) {
        for (index, parameter) in parameters.enumerated() {
            let follower = followers[index]
            defer { follower?.valuesDidChange() }
            guard let gradient = parameter.gradient, let norm = norms[index], !frozen.contains(parameter.name) else {
                if let follower { hssl_ema(parameter.count, follower.values, parameter.values, momentum) }
                continue
            }
            let state = states[index]
            state.step += 1
            var settings = hssl_update_settings(
                gradient_scale: clip > 0 ? Float(min(1, Double(clip) / (norm + 1e-6))) : 1, lr: learningRate,
                weight_decay: Self.decays(parameter) ? weightDecay : 0, beta1: Self.beta1, beta2: Self.beta2,
                epsilon: Self.epsilon,
                correction1: Self.correction(Self.beta1, step: state.step),
                correction2: Self.correction(Self.beta2, step: state.step), momentum: follower == nil ? 0 : momentum)
            // What nobody follows follows itself: with momentum 0 that is the update and nothing else.
            let following = follower?.values ?? parameter.values
            switch state.moments {
            case .float32(let first, let second):
                hssl_update(
                    parameter.count, parameter.values, following, gradient, first.floats, second.floats, &settings)
            case .int8(let first, let second):
                let key = CounterRandom.combine([Self.roundingStream, seed, UInt64(state.step), parameter.nameHash])
                hssl_update_coded(
                    parameter.count, parameter.values, following, gradient, first.codes.bytes, first.scale.floats,
                    second.codes.bytes,
                    second.scale.floats, key, &settings)
            }
            parameter.valuesDidChange()
        }
    }

    package static func decays(_ parameter: Parameter) -> Bool {
        parameter.shape.count > 1 && !parameter.name.hasSuffix(".bias")
    }

    /// Whether 8 bits are worth it: vectors and small tensors keep float32 moments (the rule of bitsandbytes, Dettmers
    /// et al., ICLR 2022).
    package static func isCoded(_ parameter: Parameter) -> Bool { parameter.shape.count > 1 && parameter.count >= 4096 }

    /// Both moments of one tensor.
    package static func momentBytes(_ parameter: Parameter, storage: MomentStorage) -> Int {
        let count = parameter.count, float = MemoryLayout<Float>.stride
        return 2 * (storage == .int8 && isCoded(parameter) ? count + float * blocks(count) : float * count)
    }

    /// Blocks of a tensor's codes, one scale each.
    package static func blocks(_ count: Int) -> Int { (count + Int(HSSL_MOMENT_BLOCK) - 1) / Int(HSSL_MOMENT_BLOCK) }

    /// Keeps the draws apart from others of the same seed ("MOMT").
    private static let roundingStream: UInt64 = 0x4D4F_4D54

    /// 1 − βⁿ.
    private static func correction(_ beta: Float, step: Int) -> Float {
        let power = pow(Double(beta), Double(step))
        return Float(1 - power)
    }
}

/// How the optimizer keeps the moments of large matrices.
public enum MomentStorage: String, CaseIterable, Sendable {
    case float32, int8

    /// What goes with a precision unless somebody says otherwise.
    public init(for precision: Precision) { self = precision == .int8 ? .int8 : .float32 }
}
