extension Recipe {
    /// Canonical YAML: every key, in the order of `shared/interfaces.md`, equal recipes giving equal text. `parse` gives back an equal recipe.
    public var yaml: String {
        var text = ""
        for (section, keys) in fields {
            text += "\(section):\n"
            for (key, value) in keys { text += "  \(key): \(value.yaml)\n" }
        }
        return text
    }

    /// Section → key and value, in canonical order; also what the report's table shows.
    package var fields: [(section: String, keys: [(key: String, value: Field)])] {
        [
            ("model", [
                ("architecture", .text(model.architecture)), ("image_size", .integer(model.imageSize)),
                ("patch_size", .integer(model.patchSize)), ("drop_path", .number(model.dropPath)),
            ]),
            ("auxiliary", [
                ("family", .text(auxiliary.family)), ("depth", .integer(auxiliary.depth)), ("kernel_size", .integer(auxiliary.kernelSize)),
                ("first_shortcut", .flag(auxiliary.firstShortcut)),
            ]),
            ("head", [
                ("hidden_dim", .integer(head.hiddenDim)), ("bottleneck_dim", .integer(head.bottleneckDim)),
                ("prototypes", .integer(head.prototypes)), ("norm_last_layer", .flag(head.normLastLayer)),
            ]),
            ("objective", [
                ("name", .text(objective.name)), ("student_temperature", .number(objective.studentTemperature)),
                ("teacher_temperature", .numbers(objective.teacherTemperature)),
                ("teacher_patch_temperature", .numbers(objective.teacherPatchTemperature)),
                ("warmup_teacher_temperature_epochs", .integer(objective.warmupTeacherTemperatureEpochs)),
                ("mask_ratio", .numbers(objective.maskRatio)), ("mask_ratio_variance", .numbers(objective.maskRatioVariance)),
                ("mask_shape", .text(objective.maskShape.rawValue)), ("center_momentum", .number(objective.centerMomentum)),
            ]),
            ("optimizer", [
                ("learning_rate", .number(optimizer.learningRate)), ("min_learning_rate", .number(optimizer.minLearningRate)),
                ("warmup_epochs", .integer(optimizer.warmupEpochs)), ("weight_decay", .numbers(optimizer.weightDecay)),
                ("clip_gradient", .number(optimizer.clipGradient)), ("teacher_momentum", .number(optimizer.teacherMomentum)),
                ("freeze_prototypes_epochs", .integer(optimizer.freezePrototypesEpochs)),
                ("states", .text(optimizer.states.rawValue)),
            ]),
            ("schedule", [
                ("epochs", .integer(schedule.epochs)), ("batch_size", .integer(schedule.batchSize)),
                ("accumulate", .integer(schedule.accumulate)), ("seed", .unsigned(schedule.seed)),
                ("precision", .text(schedule.precision.rawValue)),
            ]),
            ("data", [
                ("global_crops_scale", .numbers(data.globalCropsScale)), ("local_crops", .integer(data.localCrops)),
                ("local_crops_scale", .numbers(data.localCropsScale)), ("local_crops_size", .integer(data.localCropsSize)),
                ("mean", .numbers(data.mean)), ("std", .numbers(data.std)), ("flip_probability", .number(data.flipProbability)),
                ("color_jitter", .numbers(data.colorJitter)), ("color_jitter_probability", .number(data.colorJitterProbability)),
                ("grayscale_probability", .number(data.grayscaleProbability)), ("blur_probability", .numbers(data.blurProbability)),
                ("blur_radius", .numbers(data.blurRadius)), ("solarize_probability", .number(data.solarizeProbability)),
                ("solarize_threshold", .integer(data.solarizeThreshold)),
            ]),
            ("evaluation", [
                ("knn_every_epochs", .integer(evaluation.knnEveryEpochs)),
                ("knn_reference_images", .integer(evaluation.knnReferenceImages)),
            ]),
            ("checkpoint", [("every_steps", .integer(checkpoint.everySteps))]),
        ]
    }

    package enum Field: Sendable {
        case text(String), integer(Int), unsigned(UInt64), number(Double), numbers([Double]), flag(Bool)

        package var yaml: String {
            switch self {
            case .text(let value): value
            case .integer(let value): "\(value)"
            case .unsigned(let value): "\(value)"
            case .number(let value): Field.yaml(value)
            case .numbers(let values): "[\(values.map(Field.yaml).joined(separator: ", "))]"
            case .flag(let value): value ? "true" : "false"
            }
        }

        /// Shortest decimal that reads back equal. YAML 1.1 readers take `1e-06` for text, `1.0e-06` for a number.
        private static func yaml(_ value: Double) -> String {
            let text = "\(value)"
            guard let e = text.firstIndex(of: "e"), !text.contains(".") else { return text }
            return text[..<e] + ".0" + text[e...]
        }
    }
}
