import HSSLGraph

/// The parts of the loss, means over the images of an update, by the names of the objective's `curves`.
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

    package func weight(_ name: String) -> Double { parts.first { $0.name == name }?.weight ?? 0 }

    /// Gives a part another weight in the loss.
    mutating func weigh(_ name: String, _ weight: Float) {
        for place in parts.indices where parts[place].name == name { parts[place].weight = Double(weight) }
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
    /// Global features of a frozen teacher, as unit vectors, by micro-batch.
    var taught: [(firstImage: Int, rows: [Float])] = []
    /// Raw outputs of the last micro-batch, or of the whole update, by the fixtures' names (plain evaluation only).
    package var logits: [String: [Float]] = [:]
    /// int8: the student's codes in the last micro-batch of the update (one is enough to see them drift).
    package var quantization: QuantizationStatistics?
    /// What waits for the last micro-batch, where images are coupled.
    var waiting: WaitingBatches?
    /// Where the time went.
    package var time = Time()

    package init(losses: Losses) { self.losses = losses }

    /// Keeps raw output of some images as a part of that of the whole update.
    mutating func keep(_ name: String, _ values: [Float], _ batch: CropBatch, _ context: StepContext) {
        let count = values.count / batch.images, start = batch.firstImage * count
        let whole = logits[name] ?? [Float](repeating: 0, count: context.batchImages * count)
        logits[name] = whole[..<start] + values + whole[(start + values.count)...]
    }

    /// Wall time by part of the objective; the student's losses count as its forward pass.
    package struct Time: Sendable {
        package var teacher = Duration.zero
        package var forward = Duration.zero
        package var backward = Duration.zero

        package init() {}
    }
}
