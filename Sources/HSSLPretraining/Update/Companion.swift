import HSSLGraph

/// What learns beside a base in the same updates, from what the base makes of the images: the candidates of a search.
package protocol Companion: BaseObserver {
    /// What checkpoints hold of it.
    var checkpointParts: [CheckpointPart] { get }
    /// Figures of the last update, by their names in `metrics.jsonl`.
    var figures: [String: Double] { get }
    /// Trained values, of the students alone.
    var trainedCount: Int { get }
    /// Memory outside the pool, at most.
    var heapBytes: Int { get }
    /// Ends an update with what was observed since the last one; clears the gradients. Whatever is not finite leaves
    /// its part as it was.
    func update(schedule: StepSchedule, pool: BufferPool)
    /// Forgets what was observed since the last update.
    func discard()
}
