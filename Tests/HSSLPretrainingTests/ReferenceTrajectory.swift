import Foundation
import HSSLFormats
import HSSLGraph
import HSSLModels

@testable import HSSLPretraining

/// A reference trajectory file and its replay by the project's own step.
struct ReferenceTrajectory {
    let file: SafetensorsFile
    let configuration: Configuration

    /// `__metadata__["hssl.reference"]`.
    struct Configuration: Decodable {
        let image_size, patch_size, embed_dim, depth, num_heads, auxiliary_depth, auxiliary_kernel_size: Int
        let head_hidden_dim, head_bottleneck_dim, prototypes, images, local_views, local_image_size, steps: Int
        let student_temperature, center_momentum, clip_gradient: Double
        let schedule: Schedule

        struct Schedule: Decodable {
            let lr, weight_decay, teacher_momentum, teacher_temperature, teacher_patch_temperature: [Double]
            let freeze_prototypes: [Bool]
        }
    }

    /// A figure and the tensor that it belongs to.
    struct Worst: CustomStringConvertible {
        var value = 0.0
        var name = "-"

        mutating func consider(_ candidate: Double, _ name: String) {
            if !(candidate <= value) { (value, self.name) = (candidate.isNaN ? .infinity : candidate, name) }
        }

        var description: String { String(format: "%.2e", value) + " (\(name))" }
    }

    /// The largest deviations, each in the unit of its bound.
    struct Deviations: CustomStringConvertible {
        /// Relative.
        var loss = Worst()
        /// Of the tensor's largest magnitude.
        var logits = Worst()
        var gradients = Worst()
        /// ‖final − reference‖ / ‖reference − initial‖.
        var final = Worst()
        /// Largest difference of the key third of `qkv.bias`, of the sum of the learning rates (its exact gradient is zero).
        var keyBias = Worst()

        var description: String { "loss \(loss), logits \(logits), gradients \(gradients), final \(final), key bias \(keyBias)" }
    }

    init(path: String) throws {
        file = try SafetensorsFile(path: path)
        configuration = try JSONDecoder().decode(Configuration.self, from: Data((file.metadata["hssl.reference"] ?? "").utf8))
    }

    func makeLearner(precision: Precision = .float32) throws -> Learner {
        let c = configuration
        let base = try ModelArchitecture(family: "vit", name: "custom", imageSize: c.image_size, patchSize: c.patch_size, embedDim: c.embed_dim,
                                         depth: c.depth, numHeads: c.num_heads)
        let sizes = NetworkSizes(base: base, auxiliary: .init(depth: c.auxiliary_depth, kernel: c.auxiliary_kernel_size, firstShortcut: false),
                                 hidden: c.head_hidden_dim, bottleneck: c.head_bottleneck_dim, prototypes: c.prototypes, learnedGain: false)
        let learner = try Learner(sizes: sizes, settings: .init(studentTemperature: Float(c.student_temperature), precision: precision),
                                  centerMomentum: Float(c.center_momentum), clipGradient: Float(c.clip_gradient))
        for (network, prefix) in [(learner.student, "initial.student."), (learner.teacher, "initial.teacher.")] {
            for parameter in network.parameters.all {
                parameter.values.update(from: try file.floats(prefix + parameter.name, shape: parameter.shape), count: parameter.count)
                parameter.valuesDidChange()
            }
        }
        learner.centers.cls = try file.floats("initial.center.cls")
        learner.centers.patch = try file.floats("initial.center.patch")
        return learner
    }

    /// The views of one step; `images` selects a part of the batch.
    func batch(step: Int, images range: Range<Int>? = nil) throws -> CropBatch {
        let c = configuration
        let range = range ?? 0..<c.images
        let grid = c.image_size / c.patch_size
        let batch = CropBatch(images: range.count, globalSize: c.image_size, localViews: c.local_views, localSize: c.local_image_size,
                              tokens: grid * grid, firstImage: range.lowerBound)
        let globals = try file.floats("step\(step).global_views")
        let masks = Array(try file.tensor("step\(step).masks").bytes)
        let locals = c.local_views > 0 ? try file.floats("step\(step).local_views") : []
        func take<T>(_ source: [T], views: Int, size: Int, into target: inout [T]) {
            for (place, image) in range.enumerated() {
                for view in 0..<views {
                    for i in 0..<size { target[(place * views + view) * size + i] = source[(view * c.images + image) * size + i] }
                }
            }
        }
        take(globals, views: 2, size: 3 * c.image_size * c.image_size, into: &batch.globals)
        take(masks, views: 2, size: grid * grid, into: &batch.masks)
        take(locals, views: c.local_views, size: 3 * c.local_image_size * c.local_image_size, into: &batch.locals)
        return batch
    }

    func context(step: Int) -> HSSLObjective.StepContext {
        let s = configuration.schedule
        // The fixtures record gradients before freezing, so the prototypes' is computed at every step.
        return .init(step: step, teacherTemperature: Float(s.teacher_temperature[step]), teacherPatchTemperature: Float(s.teacher_patch_temperature[step]),
                     batchImages: configuration.images, prototypesFrozen: false)
    }

    func schedule(step: Int) -> StepSchedule {
        let s = configuration.schedule
        return StepSchedule(epoch: 0, learningRate: s.lr[step], weightDecay: s.weight_decay[step], teacherMomentum: s.teacher_momentum[step],
                            teacherTemperature: s.teacher_temperature[step], teacherPatchTemperature: s.teacher_patch_temperature[step],
                            prototypesFrozen: s.freeze_prototypes[step])
    }

    func replay(plain: Bool, precision: Precision = .float32) throws -> Deviations {
        let c = configuration
        let learner = try makeLearner(precision: precision)
        learner.objective.settings.plain = plain
        let expected = try file.floats("losses", shape: [c.steps, 4])
        var worst = Deviations()
        for step in 0..<c.steps {
            var sums = learner.newSums()
            learner.objective.accumulate(try batch(step: step), context: context(step: step), centers: learner.centers, pool: learner.pool, into: &sums)
            if step == 0 {
                for (name, logits) in sums.logits { worst.logits.consider(relative(logits, try file.floats("step0." + name)), name) }
                for parameter in learner.student.parameters.all {
                    let name = "step0.gradient." + parameter.name
                    guard let gradient = parameter.gradient else { throw Missing(name: name) }
                    let ours = Array(UnsafeBufferPointer(start: gradient, count: parameter.count))
                    worst.gradients.consider(relative(skippingKeys(parameter.name, ours), skippingKeys(parameter.name, try file.floats(name))), parameter.name)
                }
            }
            let ours = [sums.losses.total(hasAuxiliary: true), sums.losses.clsBase, sums.losses.clsAuxiliary, sums.losses.patch]
            for (part, name) in ["loss", "cls_base", "cls_aux", "patch"].enumerated() {
                let reference = Double(expected[step * 4 + part])
                worst.loss.consider(abs(ours[part] - reference) / max(abs(reference), 1e-12), "\(name) of step \(step)")
            }
            _ = learner.update(sums, schedule: schedule(step: step))
        }
        let rates = c.schedule.lr.reduce(0, +)
        for (network, role) in [(learner.student, "student."), (learner.teacher, "teacher.")] {
            for parameter in network.parameters.all {
                let ours = Array(UnsafeBufferPointer(start: parameter.values, count: parameter.count))
                try compareFinal(role + parameter.name, ours, rates: rates, into: &worst)
            }
        }
        try compareFinal("center.cls", learner.centers.cls, rates: rates, into: &worst)
        try compareFinal("center.patch", learner.centers.patch, rates: rates, into: &worst)
        return worst
    }

    private struct Missing: Error { let name: String }

    private func compareFinal(_ name: String, _ ours: [Float], rates: Double, into worst: inout Deviations) throws {
        let final = try file.floats("final." + name), initial = try file.floats("initial." + name)
        if name.hasSuffix("qkv.bias") {
            let third = ours.count / 3
            for i in third..<2 * third { worst.keyBias.consider(Double(abs(ours[i] - final[i])) / rates, name) }
        }
        let (a, b, c) = (skippingKeys(name, ours), skippingKeys(name, final), skippingKeys(name, initial))
        let moved = norm(zip(b, c).map { $0 - $1 })
        worst.final.consider(norm(zip(a, b).map { $0 - $1 }) / max(moved, 1e-12), name)
    }

    /// Without the key third of a qkv bias: softmax ignores a constant, so its exact gradient is zero.
    private func skippingKeys(_ name: String, _ values: [Float]) -> [Float] {
        guard name.hasSuffix("qkv.bias") else { return values }
        let third = values.count / 3
        return Array(values[..<third] + values[(2 * third)...])
    }

    private func relative(_ ours: [Float], _ reference: [Float]) -> Double {
        guard ours.count == reference.count else { return .infinity }
        let scale = reference.map { Double(abs($0)) }.max() ?? 0
        return zip(ours, reference).map { Double(abs($0 - $1)) }.reduce(0) { $0.isNaN || $1.isNaN ? .infinity : max($0, $1) } / max(scale, 1e-12)
    }

    private func norm(_ values: [Float]) -> Double { values.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot() }
}
