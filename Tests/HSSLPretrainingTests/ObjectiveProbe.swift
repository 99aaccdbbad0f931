import Foundation
import HSSLGraph
import HSSLModels
import XCTest

@testable import HSSLPretraining

/// Gradients, losses and centres of one update, before it is applied.
struct Evaluation {
    let losses: Losses
    let gradients: [String: [Float]]
    let centers: CenterSums?
    let logits: [String: [Float]]
    /// Mean entropy of the CLS targets, nats.
    let targetEntropy: Double
}

extension Learner {
    /// Accumulates `batches` as the micro-batches of one update and clears the gradients again.
    func evaluate(_ batches: [CropBatch], context: StepContext) -> Evaluation {
        var sums = newSums()
        for batch in batches { accumulate(batch, context: context, into: &sums) }
        var gradients: [String: [Float]] = [:]
        for parameter in student.parameters.all {
            if let gradient = parameter.gradient {
                gradients[parameter.name] = Array(UnsafeBufferPointer(start: gradient, count: parameter.count))
            }
        }
        student.parameters.clearGradients()
        return Evaluation(losses: sums.losses, gradients: gradients, centers: sums.centers, logits: sums.logits,
                          targetEntropy: sums.targetEntropy / Double(max(1, sums.targets)))
    }

    /// Of iBOT and DINO.
    var centers: Centers {
        get { (objective as? PrototypeObjective)?.centers ?? Centers(prototypes: 0) }
        set {
            guard var prototypes = objective as? PrototypeObjective else { return }
            prototypes.centers = newValue
            objective = prototypes
        }
    }

    /// Every value that an update may change.
    var state: [String: [Float]] {
        var state = Dictionary(uniqueKeysWithValues: objective.state.map { ($0.name, $0.values) })
        for (network, role) in networks {
            for parameter in network.parameters.all {
                state[role + parameter.name] = Array(
                    UnsafeBufferPointer(start: parameter.values, count: parameter.count))
            }
        }
        for (parameter, moments) in zip(optimizer.parameters, optimizer.states) {
            (state["exp_avg." + parameter.name], state["exp_avg_sq." + parameter.name]) = moments.values(
                count: parameter.count)
            state["step." + parameter.name] = [Float(moments.step)]
        }
        return state
    }
}

extension AdamW.State {
    /// The moments as numbers, decoded by the definition of the format.
    func values(count: Int) -> (first: [Float], second: [Float]) {
        func floats(_ buffer: Buffer) -> [Float] { Array(UnsafeBufferPointer(start: buffer.floats, count: count)) }
        switch moments {
        case .float32(let first, let second): return (floats(first), floats(second))
        case .int8(let first, let second):
            return ((0..<count).map { i in
                let code = first.codes.bytes[i], magnitude = UInt32(code & 127)
                let ratio = magnitude == 0 ? 0 : Float(bitPattern: (magnitude + 889) << 20)
                return (code < 128 ? ratio : -ratio) * first.scale.floats[i / 2048]
            }, (0..<count).map { i in
                let code = UInt32(second.codes.bytes[i])
                return (code == 0 ? 0 : Float(bitPattern: (code + 761) << 20)) * second.scale.floats[i / 2048]
            })
        }
    }
}

extension Losses {
    var clsBase: Double { self["cls_base"] }
    var clsAuxiliary: Double { self["cls_auxiliary"] }
    var patch: Double {
        get { self["patch"] }
        set { self["patch"] = newValue }
    }
}

extension Network {
    /// Moves every parameter whose name starts with `prefix`.
    func perturb(_ prefix: String, by amount: Float = 0.3) {
        var random = CounterRandom(seed: 17, stream: 3)
        let matching = parameters.all.filter { $0.name.hasPrefix(prefix) }
        XCTAssertFalse(matching.isEmpty, "no parameter \(prefix)")
        for parameter in matching {
            for i in 0..<parameter.count { parameter.values[i] += amount * random.normal() }
            parameter.valuesDidChange()
        }
    }
}

/// A small learner on random images: 16×16 in patches of 4, two blocks and two head blocks.
enum SmallLearner {
    static let grid = 16

    static func make(
        auxiliary: Bool = true, settings: StepSettings = .init(seed: 3), width: Int = 24, depth: Int = 2,
        learnedGain: Bool = false, firstShortcut: Bool = false, centerMomentum: Float = 0.9, clipGradient: Float = 0,
        learnsPatches: Bool = true
    ) throws -> Learner {
        let base = try ModelArchitecture(
            VisionTransformer.Configuration(imageSize: 16, patchSize: 4, embedDim: width, depth: depth, numHeads: 3))
        var head = HeadSettings(family: "convnext", depth: 2)
        (head.kernelSize, head.firstShortcut) = (3, firstShortcut)
        var options = PrototypeOptions(hidden: 48, bottleneck: 16, prototypes: 40)
        (options.learnedGain, options.centerMomentum) = (learnedGain, centerMomentum)
        let objective: any PrototypeSettings = learnsPatches ? IBOTSettings(options) : DINOSettings(options)
        let learner = try Learner(
            sizes: NetworkSizes(base: base, auxiliary: auxiliary ? head : nil), objective: objective,
            settings: settings, clipGradient: clipGradient)
        // Initial weights of σ 0.02 make every image alike to this shallow a network; and the teacher must differ from
        // the student.
        for parameter in learner.student.parameters.all where parameter.shape.count > 1 {
            for i in 0..<parameter.count { parameter.values[i] *= 5 }
            parameter.valuesDidChange()
        }
        learner.teacher?.copy(from: learner.student)
        learner.teacher?.perturb("", by: 0.03)
        return learner
    }

    /// Which patches the student does not see.
    enum Masks { case none, one, all, random }

    static func batch(images range: Range<Int> = 0..<3, localViews: Int = 0, masks: Masks = .random) -> CropBatch {
        let batch = CropBatch(
            images: range.count, globalSize: 16, localViews: localViews, localSize: 8, tokens: grid,
            firstImage: range.lowerBound)
        for (place, image) in range.enumerated() {
            for view in 0..<2 + localViews {
                var random = CounterRandom(seed: 8, stream: 1, UInt64(image), UInt64(view))
                let size = 3 * (view < 2 ? 256 : 64)
                let values = (0..<size).map { _ in random.normal() }
                if view < 2 {
                    let start = (place * 2 + view) * size
                    batch.globals.replaceSubrange(start..<start + size, with: values)
                    for token in 0..<grid {
                        let drawn = random.uniform() < 0.4
                        let masked = switch masks {
                        case .none: false
                        case .one: token == 5
                        case .all: true
                        // As the recipe: half of the crops have no mask at all.
                        case .random: (image + view) % 2 == 0 && drawn
                        }
                        batch.masks[(place * 2 + view) * grid + token] = masked ? 1 : 0
                    }
                } else {
                    let start = (place * localViews + view - 2) * size
                    batch.locals.replaceSubrange(start..<start + size, with: values)
                }
            }
        }
        return batch
    }

    static func context(images: Int = 3, step: Int = 0, prototypesFrozen: Bool = false) -> StepContext {
        .init(
            step: step, teacherTemperature: 0.04, teacherPatchTemperature: 0.06, batchImages: images,
            prototypesFrozen: prototypesFrozen)
    }

    static func schedule(
        learningRate: Double = 1e-3, weightDecay: Double = 0.1, momentum: Double = 0.9, prototypesFrozen: Bool = false
    ) -> StepSchedule {
        StepSchedule(
            epoch: 0, learningRate: learningRate, weightDecay: weightDecay, teacherMomentum: momentum,
            teacherTemperature: 0.04,
            teacherPatchTemperature: 0.06, prototypesFrozen: prototypesFrozen)
    }
}

/// Largest difference, of the largest magnitude of the reference.
func relativeDifference(_ ours: [Float], _ reference: [Float]) -> Double {
    guard ours.count == reference.count else { return .infinity }
    let scale = max(reference.reduce(0.0) { max($0, Double(abs($1))) }, 1e-12)
    return zip(ours, reference).reduce(0.0) {
        $1.0.isNaN || $1.1.isNaN ? .infinity : max($0, Double(abs($1.0 - $1.1)) / scale)
    }
}

func cosine(_ a: [Float], _ b: [Float]) -> Double {
    // One walk over pointers: an unoptimised build takes minutes for `zip` and `reduce` over every pair's gradients.
    var (ab, aa, bb) = (0.0, 0.0, 0.0)
    a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { b in
            let count = min(a.count, b.count)
            var i = 0
            while i < count {
                let x = Double(a[i]), y = Double(b[i])
                ab += x * y
                aa += x * x
                bb += y * y
                i += 1
            }
        }
    }
    return ab / max((aa * bb).squareRoot(), 1e-30)
}

/// Without the key third of a qkv bias: softmax ignores a constant, so its exact gradient is zero and what is computed
/// is rounding.
func withoutKeys(_ name: String, _ values: [Float]) -> [Float] {
    guard name.hasSuffix("qkv.bias") else { return values }
    let third = values.count / 3
    return Array(values[..<third] + values[(2 * third)...])
}

/// Losses and gradients equal to rounding.
func assertEqual(
    _ ours: Evaluation, _ reference: Evaluation, tolerance: Double = 2e-5, _ label: String,
    file: StaticString = #filePath, line: UInt = #line
) {
    for (a, b, name) in [
        (ours.losses.clsBase, reference.losses.clsBase, "cls_base"),
        (ours.losses.clsAuxiliary, reference.losses.clsAuxiliary, "cls_aux"),
        (ours.losses.patch, reference.losses.patch, "patch"),
    ] {
        XCTAssertEqual(a, b, accuracy: 1e-5 * max(1, abs(b)), "\(name), \(label)", file: file, line: line)
    }
    XCTAssertEqual(Set(ours.gradients.keys), Set(reference.gradients.keys), label, file: file, line: line)
    // A gradient that is zero but for rounding is measured against the others.
    let floor = 1e-3 * (reference.gradients.values.joined().reduce(0) { max($0, abs($1)) })
    for (name, gradient) in reference.gradients {
        guard let other = ours.gradients[name] else { continue }
        let (a, b) = (withoutKeys(name, other), withoutKeys(name, gradient))
        let scale = max(b.reduce(0) { max($0, abs($1)) }, floor)
        let error =
            zip(a, b).reduce(Float(0)) { $1.0.isNaN ? .infinity : max($0, abs($1.0 - $1.1)) } / max(scale, 1e-20)
        XCTAssertLessThanOrEqual(Double(error), tolerance, "gradient of \(name), \(label)", file: file, line: line)
    }
}
