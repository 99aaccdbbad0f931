import HSSLGraph

/// Something that learns, as a checkpoint holds it: networks and moments under their names, behind a prefix.
package struct CheckpointPart {
    /// Empty for the run's own student and teacher.
    let prefix: String
    /// With what comes before their names: `student.`, `teacher.`.
    let networks: [(parameters: ParameterSet, role: String)]
    let optimizer: AdamW
    /// What is learnt besides weights.
    let state: [(name: String, values: [Float])]
    /// Takes values back under a name of `state`.
    let restore: (_ name: String, _ values: [Float]) -> Void

    func optimizerName(_ kind: String, _ parameter: Parameter) -> String {
        "\(prefix)optimizer.\(kind).\(parameter.name)"
    }
}

extension Learner {
    /// The base's own, then those of what learns beside it.
    var checkpointParts: [CheckpointPart] {
        let own = CheckpointPart(
            prefix: "", networks: networks.map { ($0.network.parameters, $0.role) }, optimizer: optimizer,
            state: objective.state, restore: { self.objective.restore($0, $1) })
        return [own] + (companion?.checkpointParts ?? [])
    }
}
