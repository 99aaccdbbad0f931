import HSSLGraph
import HSSLModels

/// The candidates of a search, all on one base.
final class CandidateSet: Companion {
    let candidates: [Candidate]
    /// The base's own feature projected as a head's would be: what targets of other heads are measured by.
    let reference: Candidate
    let teachesBase: Bool
    private(set) var figures: [String: Double] = [:]
    private let heldOutBytes: Int

    static let referenceName = "base"

    /// - Parameter memoryLimit: bytes that the process may have; nil: any.
    /// - Throws: `ModelError` for a head that makes no sense over the recipe's base, `PretrainingError` where weights
    ///   alone take more than the limit.
    init(_ options: SearchOptions, recipe: Recipe, learner: Learner, memoryLimit: Int? = nil) throws {
        let shared = CandidateSettings(recipe, width: learner.student.base.width)
        func pair(_ name: String, _ head: HeadSettings?) throws -> CandidatePair {
            try CandidatePair(name, head: head, over: learner.student, grid: learner.globalGrid, shared)
        }
        let heads = try options.heads.map { try pair($0, HeadSettings(recipe.with(head: $0).auxiliary)) }
        let own = try pair(Self.referenceName, nil)
        var floor = MemoryFloor()
        for pair in heads + [own] {
            floor.add(student: pair.student.parameters, teacher: pair.teacher.parameters, storage: shared.moments)
        }
        // Gradients of the base come with its first image.
        try floor.check(owed: MemoryLayout<Float>.stride * learner.student.parameters.count, limit: memoryLimit)
        candidates = heads.map { Candidate($0, over: learner.student, shared, pool: learner.pool) }
        reference = Candidate(own, over: learner.student, shared, pool: learner.pool)
        teachesBase = options.coupled
        let width = learner.student.base.width
        let widths = (candidates + [reference]).reduce(width) { $0 + ($1.teacher.head?.width ?? width) }
        heldOutBytes = 4 * MultiCropAugmentation.globalViews * options.heldOutImages * widths
    }

    /// The reference last.
    var all: [Candidate] { candidates + [reference] }

    func observe(_ seen: Observation, _ batch: CropBatch, context: StepContext, pool: BufferPool) -> ObservedGradient? {
        let leaves = teachesBase ? BaseLeaves(seen.student, pool: pool) : nil
        for candidate in candidates { candidate.learn(seen, batch, context: context, pool: pool, leaves: leaves) }
        reference.learn(seen, batch, context: context, pool: pool, leaves: nil)
        // Mean over the candidates of the mean of both losses: the base's own loss keeps its weight.
        return leaves?.gradient(scale: 1 / (2 * Float(candidates.count)), pool: pool)
    }

    func update(schedule: StepSchedule, pool: BufferPool) {
        for candidate in all {
            let losses = candidate.update(schedule: schedule)
            figures["head_\(candidate.name)"] = losses.head
            figures["probe_\(candidate.name)"] = losses.probe
        }
    }

    func discard() { for candidate in all { candidate.discard() } }

    var checkpointParts: [CheckpointPart] { all.map(\.checkpointPart) }

    var trainedCount: Int { all.reduce(0) { $0 + $1.student.parameters.count } }

    /// Features of the held-out images.
    var heapBytes: Int { heldOutBytes }
}
