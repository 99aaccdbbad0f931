import Foundation
import HSSLFormats
import HSSLGraph

@testable import HSSLModels
@testable import HSSLPretraining

/// A reference trajectory file and its replay by the project's own step.
struct ReferenceTrajectory {
    let file: SafetensorsFile
    let configuration: Configuration

    /// `__metadata__["hssl.reference"]`: any base, head and objective (`base` an object), or the older files of a ViT
    /// with ConvNeXt blocks.
    struct Configuration {
        let architecture: ModelArchitecture
        let auxiliary: HeadSettings?
        let objective: any ObjectiveSettings
        let images, localViews, localSize, steps: Int
        let clipGradient: Double
        /// Columns of `losses`.
        let parts: [String]
        /// Before the names of the centres: `center.` or `state.`.
        let statePrefix: String
        private let schedule: JSONValue

        init(_ json: JSONValue) throws {
            let context = "hssl.reference"
            schedule = try json.value("schedule", in: context)
            (images, steps) = (try json.integer("images", in: context), try json.integer("steps", in: context))
            guard case .object(var base)? = try json.member("base", in: context) else {
                architecture = try ModelArchitecture(VisionTransformer.Configuration(
                    imageSize: json.integer("image_size", in: context),
                    patchSize: json.integer("patch_size", in: context),
                    embedDim: json.integer("embed_dim", in: context), depth: json.integer("depth", in: context),
                    numHeads: json.integer("num_heads", in: context)))
                var head = HeadSettings(family: "convnext", depth: try json.integer("auxiliary_depth", in: context))
                head.kernelSize = try json.integer("auxiliary_kernel_size", in: context)
                var options = PrototypeOptions(
                    hidden: try json.integer("head_hidden_dim", in: context),
                    bottleneck: try json.integer("head_bottleneck_dim", in: context),
                    prototypes: try json.integer("prototypes", in: context))
                options.studentTemperature = Float(try json.number("student_temperature", in: context))
                options.centerMomentum = Float(try json.number("center_momentum", in: context))
                (auxiliary, objective, statePrefix) = (head, IBOTSettings(options), "center.")
                localViews = try json.integer("local_views", in: context)
                localSize = try json.integer("local_image_size", in: context)
                clipGradient = try json.number("clip_gradient", in: context)
                parts = ["loss", "cls_base", "cls_auxiliary", "patch"]
                return
            }
            // The file names what a family cannot guess; the rest is as in a model file.
            base["name"] = "custom"
            base["in_chans"] = 3
            if let window = base["window"] { (base["window_size"], base["window"]) = (window, nil) }
            if base["family"] == "vit" || base["family"] == "swin" { base["mlp_ratio"] = 4 }
            if base["family"] == "convnext" { (base["kernel_size"], base["kernel"]) = (base["kernel"] ?? 7, nil) }
            architecture = try ModelArchitecture(json: .object(base))
            auxiliary = try json.member("auxiliary", in: context).map { section in
                var head = HeadSettings(
                    family: try section.string("family", in: context), depth: try section.integer("depth", in: context))
                head.kernelSize = try section.member("kernel_size", in: context)?.asInteger ?? 7
                head.firstShortcut = try section.member("first_shortcut", in: context) == .bool(true)
                head.numHeads = try section.member("num_heads", in: context)?.asInteger
                head.bottleneckRatio = try section.member("bottleneck_ratio", in: context)?.asNumber ?? 0.25
                return head
            }
            objective = try Self.objective(json.value("objective", in: context), context)
            clipGradient = try json.value("optimizer", in: context).number("clip_gradient", in: context)
            localViews = try json.member("local_views", in: context)?.asInteger ?? 0
            localSize = try json.member("local_size", in: context)?.asInteger ?? 0
            parts = try ["loss"] + json.strings("parts", in: context)
            statePrefix = "state."
        }

        private static func objective(_ section: JSONValue, _ context: String) throws -> any ObjectiveSettings {
            func integer(_ key: String) throws -> Int { try section.integer(key, in: context) }
            func number(_ key: String) throws -> Float { Float(try section.number(key, in: context)) }
            let name = try section.string("name", in: context)
            switch name {
            case "mocov3":
                var settings = try MoCoV3Settings(hidden: integer("hidden_dim"), output: integer("out_dim"))
                settings.projectorLayers = try integer("projector_layers")
                settings.predictorLastNorm = try section.value("predictor_last_norm", in: context) == .bool(true)
                settings.temperature = try number("temperature")
                return settings
            case "byol": return try BYOLSettings(hidden: integer("hidden_dim"), output: integer("out_dim"))
            case "simmim": return try SimMIMSettings(maskStride: integer("mask_stride"))
            case Recipe.distillObjective:
                let side = try integer("teacher_side")
                var settings = try DistillSettings(teacher: TeacherShape(
                    width: integer("teacher_width"), rank: integer("teacher_rank"),
                    grid: Grid(height: side, width: side)))
                (settings.anchors, settings.globalWeight) = (try integer("anchors"), try number("global_weight"))
                settings.similarityWeight = try number("similarity_weight")
                let temperatures = try section.numbers("similarity_temperature", in: context).map { Float($0) }
                settings.similarityTemperature = (temperatures[0], temperatures[1])
                (settings.patchWeight, settings.mseWeight) = (try number("patch_weight"), try number("mse_weight"))
                settings.patchTemperature = try number("patch_temperature")
                settings.isOrthogonal = try section.string("projection", in: context) == "orthogonal"
                return settings
            default:
                var options = try PrototypeOptions(
                    hidden: integer("hidden_dim"), bottleneck: integer("bottleneck_dim"),
                    prototypes: integer("prototypes"))
                options.studentTemperature = try number("student_temperature")
                options.centerMomentum = try number("center_momentum")
                return name == "ibot" ? IBOTSettings(options) : DINOSettings(options)
            }
        }

        func value(_ key: String, step: Int) -> Double {
            ((try? schedule.numbers(key, in: "schedule")) ?? []).dropFirst(step).first ?? 0
        }

        func flag(_ key: String, step: Int) -> Bool {
            ((try? schedule.array(key, in: "schedule")) ?? []).dropFirst(step).first == .bool(true)
        }

        /// Sum of the learning rates.
        var rates: Double { (0..<steps).reduce(0) { $0 + value("lr", step: $1) } }
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
        /// Largest difference where the exact gradient is zero (the key third of `qkv.bias`), of the sum of the
        /// learning rates.
        var zeroGradient = Worst()

        var description: String {
            "loss \(loss), logits \(logits), gradients \(gradients), final \(final), zero gradient \(zeroGradient)"
        }
    }

    init(path: String) throws {
        file = try SafetensorsFile(path: path)
        configuration = try Configuration(JSONValue.parse(file.metadata["hssl.reference"] ?? ""))
    }

    func makeLearner(precision: Precision = .float32) throws -> Learner {
        let c = configuration
        let sizes = NetworkSizes(base: c.architecture, auxiliary: c.auxiliary)
        let learner = try Learner(sizes: sizes, objective: c.objective, settings: .init(precision: precision),
                                  clipGradient: Float(c.clipGradient))
        for (network, role) in learner.networks {
            for parameter in network.parameters.all {
                let values = try file.floats("initial." + role + parameter.name, shape: parameter.shape)
                parameter.values.update(from: values, count: parameter.count)
                parameter.valuesDidChange()
            }
        }
        for (name, values) in learner.objective.state {
            let stored = "initial.\(c.statePrefix)" + name.split(separator: ".").suffix(1).joined()
            let initial = try file.floats(stored)
            guard initial.count == values.count else { throw Missing(name: stored) }
            learner.objective.restore(name, initial)
        }
        return learner
    }

    /// The views of one step; `images` selects a part of the batch.
    func batch(step: Int, images range: Range<Int>? = nil) throws -> CropBatch {
        let c = configuration
        let range = range ?? 0..<c.images
        let size = c.architecture.imageSize
        let cells = c.architecture.makeBase(ParameterScope(ParameterSet()), .pretraining).grid(
            height: size, width: size).count
        let views = c.objective.globalViews
        let batch = CropBatch(
            images: range.count, globalViews: views, globalSize: size, localViews: c.localViews, localSize: c.localSize,
            tokens: cells, firstImage: range.lowerBound)
        let globals = try file.floats("step\(step)." + (views == 1 ? "images" : "global_views"))
        let locals = c.localViews > 0 ? try file.floats("step\(step).local_views") : []
        func take<T>(_ source: [T], views: Int, size: Int, into target: inout [T]) {
            for (place, image) in range.enumerated() {
                for view in 0..<views {
                    for i in 0..<size {
                        target[(place * views + view) * size + i] = source[(view * c.images + image) * size + i]
                    }
                }
            }
        }
        take(globals, views: views, size: 3 * size * size, into: &batch.globals)
        if c.objective.masksPatches {
            take(Array(try file.tensor("step\(step).masks").bytes), views: views, size: cells, into: &batch.masks)
        }
        take(locals, views: c.localViews, size: 3 * c.localSize * c.localSize, into: &batch.locals)
        if let teacher = (c.objective as? DistillSettings)?.teacher {
            let cells = teacher.grid.count * teacher.rank
            var answers = TeacherAnswers(
                globals: [Float](repeating: 0, count: range.count * teacher.width),
                cells: [Float](repeating: 0, count: range.count * cells))
            take(try file.floats("step\(step).teacher_globals"), views: 1, size: teacher.width, into: &answers.globals)
            take(try file.floats("step\(step).teacher_cells"), views: 1, size: cells, into: &answers.cells)
            batch.answers = answers
        }
        return batch
    }

    func context(step: Int) -> StepContext {
        let c = configuration
        // The fixtures record gradients before freezing, so the prototypes' is computed at every step.
        var context = StepContext(step: step, schedule: schedule(step: step), batchImages: c.images)
        context.prototypesFrozen = false
        context.globalWeight = Float(c.value("global_weight", step: step))
        return context
    }

    func schedule(step: Int) -> StepSchedule {
        let c = configuration
        return StepSchedule(
            epoch: 0, learningRate: c.value("lr", step: step), weightDecay: c.value("weight_decay", step: step),
            teacherMomentum: c.value("teacher_momentum", step: step),
            teacherTemperature: c.value("teacher_temperature", step: step),
            teacherPatchTemperature: c.value("teacher_patch_temperature", step: step),
            prototypesFrozen: c.flag("freeze_prototypes", step: step))
    }

    /// - Parameter microBatches: images of each micro-batch of an update; nil: all at once.
    func replay(
        plain: Bool, precision: Precision = .float32, keptBytes: Int? = nil, microBatches: [Int]? = nil
    ) throws -> Deviations {
        let c = configuration
        let learner = try makeLearner(precision: precision)
        learner.objective.settings.plain = plain
        if let keptBytes { learner.objective.settings.keptBytes = keptBytes }
        let expected = try file.floats("losses", shape: [c.steps, c.parts.count])
        var worst = Deviations()
        for step in 0..<c.steps {
            var sums = learner.newSums(), first = 0
            var parts: [Range<Int>] = []
            for count in microBatches ?? [c.images] {
                parts.append(first..<first + count)
                first += count
            }
            // Another order every step; the first, whose gradients are compared, is not that of the images.
            for part in parts.indices.map({ parts[($0 + step + 1) % parts.count] }) {
                learner.accumulate(try batch(step: step, images: part), context: context(step: step), into: &sums)
            }
            if step == 0 {
                // Where images do not wait for one another, the logits are those of the last micro-batch.
                if microBatches == nil || learner.objective.waits {
                    for (name, logits) in sums.logits {
                        worst.logits.consider(relative(logits, try file.floats("step0." + name)), name)
                    }
                }
                for parameter in learner.student.parameters.all {
                    let name = "step0.gradient." + parameter.name
                    // Exactly zero, or of a parameter that this objective does not use (DINO's mask token).
                    if try isZero(parameter.name) { continue }
                    guard let gradient = parameter.gradient else { throw Missing(name: name) }
                    let ours = Array(UnsafeBufferPointer(start: gradient, count: parameter.count))
                    worst.gradients.consider(
                        relative(
                            skippingKeys(parameter.name, ours), skippingKeys(parameter.name, try file.floats(name))),
                        parameter.name)
                }
            }
            for (column, name) in c.parts.enumerated() {
                let reference = Double(expected[step * c.parts.count + column])
                worst.loss.consider(
                    abs((name == "loss" ? sums.losses.total : sums.losses[name]) - reference) / max(
                        abs(reference), 1e-12),
                    "\(name) of step \(step)")
            }
            _ = learner.update(sums, schedule: schedule(step: step))
        }
        for (network, role) in learner.networks {
            for parameter in network.parameters.all {
                let ours = Array(UnsafeBufferPointer(start: parameter.values, count: parameter.count))
                try compareFinal(role, parameter.name, ours, into: &worst)
            }
        }
        for (name, values) in learner.objective.state {
            try compareFinal("", c.statePrefix + name.split(separator: ".").suffix(1).joined(), values, into: &worst)
        }
        return worst
    }

    /// Whether a parameter's exact gradient is zero: AdamW then amplifies rounding.
    private func isZero(_ name: String) throws -> Bool {
        try file.floats("step0.gradient." + name).allSatisfy { abs($0) < 1e-9 }
    }

    private struct Missing: Error { let name: String }

    private func compareFinal(
        _ role: String, _ parameter: String, _ ours: [Float], into worst: inout Deviations
    ) throws {
        let name = role + parameter
        let final = try file.floats("final." + name), initial = try file.floats("initial." + name)
        func boundByRates(_ range: Range<Int>) {
            for i in range { worst.zeroGradient.consider(Double(abs(ours[i] - final[i])) / configuration.rates, name) }
        }
        if !role.isEmpty, try isZero(parameter) { return boundByRates(ours.indices) }
        if name.hasSuffix("qkv.bias") { boundByRates(ours.count / 3..<2 * ours.count / 3) }
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
        return zip(ours, reference).map { Double(abs($0 - $1)) }.reduce(0) { $0.isNaN
            || $1.isNaN ? .infinity : max($0, $1) } / max(scale, 1e-12)
    }

    private func norm(_ values: [Float]) -> Double { values.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot() }
}
