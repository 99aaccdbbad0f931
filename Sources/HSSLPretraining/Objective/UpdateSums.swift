import HSSLGraph

/// The parts of the loss, means over the images of an update, by the names that metrics and reports know.
package struct Losses: Equatable, Sendable {
    package struct Part: Equatable, Sendable {
        package let name: String
        /// In the loss.
        package var weight: Double
        package var value = 0.0
    }

    package private(set) var parts: [Part]

    package init(_ parts: [(name: String, weight: Float)]) {
        self.parts = parts.map { Part(name: $0.name, weight: Double($0.weight)) }
    }

    /// 0 for a part that the objective does not have; such a part cannot be set.
    package subscript(_ name: String) -> Double {
        get { parts.first { $0.name == name }?.value ?? 0 }
        set {
            guard let place = parts.firstIndex(where: { $0.name == name }) else {
                preconditionFailure("the objective has no loss '\(name)'")
            }
            parts[place].value = newValue
        }
    }

    /// The loss.
    package var total: Double { parts.reduce(0) { $0 + $1.weight * $1.value } }
}

/// Sums over the micro-batches of one update.
package struct UpdateSums {
    package var losses: Losses
    /// Images learnt from so far.
    package var images = 0
    /// What running centres need, where the objective has some.
    package var centers: CenterSums?
    /// Σ over global targets of their entropy, nats, where targets are distributions.
    package var targetEntropy = 0.0
    package var targets = 0
    /// Spread of the base's normalised global features (the teacher's where there is one): a collapse shows here first.
    package var features = FeatureSpread()
    /// Raw outputs of the last micro-batch, or of the whole update, by the fixtures' names (plain evaluation only).
    package var logits: [String: [Float]] = [:]
    /// int8: the student's codes in the last micro-batch of the update (one is enough to see them drift).
    package var quantization: QuantizationStatistics?
    /// Where the time went.
    package var time = Time()

    package init(losses: Losses) { self.losses = losses }

    /// Wall time by part of the objective; the student's losses count as its forward pass.
    package struct Time: Sendable {
        package var teacher = Duration.zero
        package var forward = Duration.zero
        package var backward = Duration.zero

        package init() {}
    }
}
