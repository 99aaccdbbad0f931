import Glibc

/// One line of `metrics.jsonl`: what one update (or an evaluation after it) measured. Values that were not measured are
/// left out.
public struct Metrics: Equatable, Sendable {
    /// Updates done, from 1 after the first.
    public var step: Int
    public var epoch: Int
    public var loss: Double?
    /// What the objective or a search names: parts of the loss (`cls_base`, `global_aux`, …; a report draws them by the
    /// objective's `curves`), and of a search its candidates' losses, `head_FAMILY` (of the head's own student) and
    /// `probe_FAMILY` (of the probe on the base's feature).
    public var named: [String: Double] = [:]
    public var learningRate: Double?
    public var weightDecay: Double?
    public var teacherMomentum: Double?
    public var teacherTemperature: Double?
    /// L2 norm over all tensors, before clipping.
    public var gradientNorm: Double?
    /// Mean entropy of the teacher's CLS targets, nats.
    public var teacherEntropy: Double?
    /// See `FeatureStatistics.meanStandardDeviation`.
    public var featureStd: Double?
    /// int8 only, of the update's last micro-batch: share of activation codes at ±127 (one a row is there by
    /// construction).
    public var int8Saturation: Double?
    /// The same of the codes of gradients.
    public var int8GradientSaturation: Double?
    /// Share of gradient codes that are 0.
    public var int8GradientZeros: Double?
    /// Mean and largest scale of the rows of gradients: what one code stands for.
    public var int8GradientScaleMean: Double?
    public var int8GradientScaleMax: Double?
    /// Images, not views.
    public var imagesPerSecond: Double?
    /// Part of the processors' time that decoding images and drawing views took, 0 … 1.
    public var loadingShare: Double?
    public var peakRSSBytes: Int?
    /// Updates refused so far for a loss that was not finite.
    public var skippedSteps: Int?
    /// Fraction; only after an evaluation.
    public var knnTop1: Double?
    /// Of a distillation: k-NN of the untrained student and of the teacher (one line has them), over so many
    /// references.
    public var knnUntrained: Double?
    public var knnTeacher: Double?
    public var knnReferences: Int?
    /// Part of the gap between these two that `knnTop1` has closed.
    public var gapClosed: Double?

    package var gap: KNNGap? {
        guard let knnUntrained, let knnTeacher else { return nil }
        return KNNGap(untrained: knnUntrained, teacher: knnTeacher)
    }

    /// Says what part of a gap the k-NN figure of this line has closed.
    mutating func set(_ gap: KNNGap?) { gapClosed = knnTop1.flatMap { gap?.closed(by: $0) } }

    public init(step: Int, epoch: Int) {
        self.step = step
        self.epoch = epoch
    }

    private static let numberKeys: [(name: String, path: WritableKeyPath<Metrics, Double?> & Sendable)] = [
        ("loss", \.loss), ("lr", \.learningRate),
        ("weight_decay", \.weightDecay), ("teacher_momentum", \.teacherMomentum),
        ("teacher_temperature", \.teacherTemperature),
        ("gradient_norm", \.gradientNorm), ("teacher_entropy", \.teacherEntropy), ("feature_std", \.featureStd),
        ("int8_saturation", \.int8Saturation), ("int8_gradient_saturation", \.int8GradientSaturation),
        ("int8_gradient_zeros", \.int8GradientZeros),
        ("int8_gradient_scale_mean", \.int8GradientScaleMean), ("int8_gradient_scale_max", \.int8GradientScaleMax),
        ("images_per_second", \.imagesPerSecond), ("loading_share", \.loadingShare),
        ("knn_top1", \.knnTop1), ("knn_untrained", \.knnUntrained), ("knn_teacher", \.knnTeacher),
        ("gap_closed", \.gapClosed),
    ]
    private static let integerKeys: [(name: String, path: WritableKeyPath<Metrics, Int?> & Sendable)] = [
        ("peak_rss_bytes", \.peakRSSBytes), ("skipped_steps", \.skippedSteps), ("knn_references", \.knnReferences),
    ]

    /// One JSON object without a line break; numbers that are not finite become `null`, as JSON has no other word.
    public var json: String {
        var text = "{\"step\":\(step),\"epoch\":\(epoch)"
        for (name, path) in Metrics.numberKeys {
            guard let value = self[keyPath: path] else { continue }
            text += ",\"\(name)\":\(value.isFinite ? "\(value)" : "null")"
        }
        for (name, path) in Metrics.integerKeys {
            guard let value = self[keyPath: path] else { continue }
            text += ",\"\(name)\":\(value)"
        }
        for (name, value) in named.sorted(by: { $0.key < $1.key }) {
            text += ",\"\(name)\":\(value.isFinite ? "\(value)" : "null")"
        }
        return text + "}"
    }

    /// Reads a line that ``json`` wrote (white space is allowed, and what has no property is ``named``); nil for
    /// anything else, such as half a line.
    public init?(json line: some StringProtocol) {
        let text = line.utf8.filter { $0 != UInt8(ascii: " ") && $0 != UInt8(ascii: "\t") && $0 != UInt8(ascii: "\r") }
        guard text.first == UInt8(ascii: "{"), text.last == UInt8(ascii: "}"), text.count >= 2 else { return nil }
        var values: [String: String] = [:]
        // No value is a string, list or object, so commas and colons separate without further thought.
        for pair in text.dropFirst().dropLast().split(separator: UInt8(ascii: ",")) {
            let parts = pair.split(separator: UInt8(ascii: ":"))
            guard parts.count == 2, let key = parts.first, let value = parts.last, key.count >= 2,
                  key.first == UInt8(ascii: "\""), key.last == UInt8(ascii: "\"") else { return nil }
            values[String(decoding: key.dropFirst().dropLast(), as: UTF8.self)] = String(decoding: value, as: UTF8.self)
        }
        guard let step = values["step"].flatMap(Int.init), let epoch = values["epoch"].flatMap(Int.init) else {
            return nil
        }
        self.init(step: step, epoch: epoch)
        for (name, path) in Metrics.numberKeys { self[keyPath: path] = values[name].flatMap(Double.init) }
        for (name, path) in Metrics.integerKeys { self[keyPath: path] = values[name].flatMap(Int.init) }
        let known = Set(["step", "epoch"] + Metrics.numberKeys.map(\.name) + Metrics.integerKeys.map(\.name))
        for (name, value) in values where !known.contains(name) { named[name] = Double(value) }
    }
}
