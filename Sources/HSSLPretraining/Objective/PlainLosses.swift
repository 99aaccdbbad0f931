import CSupport
import HSSLGraph

/// The losses by their definition: all logits [rows, K] at once, those of the targets too. The oracle of
/// `prototypeCrossEntropy` in tests.
struct PlainLosses {
    /// One a stream.
    private(set) var losses: [Tensor] = []
    private(set) var rowLosses: [[Float]] = []
    /// Student logits of every stream.
    private(set) var logits: [[Float]] = []
    /// Teacher logits of projected targets, before centre and temperature, in the order of the streams.
    private(set) var teacherLogits: [Float] = []

    init(_ streams: [PrototypeRows], prototypes: Tensor, temperature: Float) {
        for stream in streams {
            var targets: [Float] = []
            for part in stream.targets {
                switch part {
                case .distributions(let stored, let index): targets += stored.gatheringRows(index).array()
                case .projections(let rows, let teacher, let center, let temperature):
                    let logits = rows.linear(weight: teacher.detached(on: rows.tape), bias: nil, role: .full)
                    teacherLogits += logits.array()
                    var q = [Float](repeating: 0, count: logits.count)
                    hssl_softmax(logits.rows, logits.width, logits.values, center, 1 / temperature, &q)
                    targets += q
                }
            }
            let logits = stream.rows.linear(weight: prototypes, bias: nil, role: .full)
            var rowLosses: [Float] = []
            losses.append(
                logits.softCrossEntropy(
                    targets: stream.rows.tape.constant(targets, shape: logits.shape), weights: stream.weights,
                    temperature: temperature, rowLosses: &rowLosses))
            self.rowLosses.append(rowLosses)
            self.logits.append(logits.array())
        }
    }
}
