import CSupport
import HSSLGraph
import HSSLModels

/// What a candidate does with images that nobody learnt from, gathered batch by batch.
struct CandidateMeasure {
    /// An image's H(q, probe) − H(q, head), mean over its two view pairs, nats.
    private(set) var gaps: [Double] = []
    /// Σ over views and images of H(q, head), and of cosine(probe, head).
    private var headLoss = 0.0, cosine = 0.0
    /// Σ over views and images of the targets [K].
    private var targets: [Double]
    /// The teacher's head, global features of view 0 and of view 1 [images, width].
    private(set) var globals: [[Float]] = [[], []]

    init(prototypes: Int) { targets = [Double](repeating: 0, count: prototypes) }

    /// - Parameters:
    ///   - seen: of the two views of some images, view-major.
    ///   - temperature: of the teacher's targets.
    mutating func add(_ candidate: Candidate, _ seen: Observation, temperature: Float, pool: BufferPool) {
        let settings = seen.settings, shared = candidate.shared
        let (q, global) = candidate.targets(seen.teacher, settings, temperature: temperature, pool: pool)
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool)
        let base = DetachedBase(seen.student, on: tape)
        let (head, probe) = candidate.projections(candidate.student.global(base, Pass()), base, settings)
        let prototypes = candidate.student.prototypes.weight(tape)
        let rows = q.rows, images = rows / 2
        let other = q.gatheringRows((0..<rows).map { Int32(($0 + images) % rows) })
        func losses(_ x: Tensor) -> [Float] {
            let logits = x.linear(weight: prototypes, bias: nil, role: .full)
            var losses = [Float](repeating: 0, count: rows), logSumExp = losses
            hssl_soft_cross_entropy(
                rows, logits.width, other.values, logits.values, 1 / shared.studentTemperature, &losses, &logSumExp)
            return losses
        }
        let (own, probing) = (losses(head), losses(probe)), width = head.width
        for image in 0..<images {
            let gap = [image, images + image].reduce(0.0) { $0 + Double(probing[$1]) - Double(own[$1]) }
            gaps.append(gap / 2)
        }
        for row in 0..<rows {
            headLoss += Double(own[row])
            for i in row * width..<(row + 1) * width { cosine += Double(head.values[i]) * Double(probe.values[i]) }
            for k in targets.indices { targets[k] += Double(q.values[row * targets.count + k]) }
        }
        for view in 0..<2 {
            let start = global.values + view * images * global.width
            globals[view] += UnsafeBufferPointer(start: start, count: images * global.width)
        }
    }

    /// - Parameter base: the teacher's base, global features by view.
    func row(_ candidate: Candidate, base: [[Float]]) -> SearchResult.Row {
        let images = gaps.count, views = Double(2 * images)
        let mean = gaps.reduce(0, +) / Double(images)
        let variance = gaps.reduce(0.0) { $0 + ($1 - mean) * ($1 - mean) } / Double(images - 1)
        func overViews(_ measure: (Int) -> Double) -> Double { (measure(0) + measure(1)) / 2 }
        return SearchResult.Row(
            head: candidate.name, gap: mean, gapError: (variance / Double(images)).squareRoot(),
            headLoss: headLoss / views, cosineDistance: 1 - cosine / views,
            ckaDistance: overViews { Discrepancy.cka(base[$0], globals[$0], rows: images) },
            targetPerplexity: Discrepancy.perplexity(targets),
            effectiveRank: overViews { Discrepancy.effectiveRank(globals[$0], rows: images) },
            parameters: candidate.cost.parameters, multiplyAdds: candidate.cost.multiplyAdds)
    }
}
