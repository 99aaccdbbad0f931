import CSupport
import HSSLGraph

/// Running centres of the teacher's logits, which keep one prototype from winning everything.
///
/// c ← m·c + (1 − m)·mean over this update's teacher logits. Source: DINO; patch centre as iBOT.
package struct Centers {
    /// [K]
    package var cls: [Float]
    /// [K]; empty where no patches learn.
    package var patch: [Float]

    package init(prototypes: Int, learnsPatches: Bool = true) {
        cls = [Float](repeating: 0, count: prototypes)
        patch = [Float](repeating: 0, count: learnsPatches ? prototypes : 0)
    }

    /// By their names in a checkpoint.
    package var named: [(name: String, values: [Float])] {
        [("center.cls", cls)] + (patch.isEmpty ? [] : [("center.patch", patch)])
    }

    /// - Parameter step: the sums of one update.
    mutating func update(with step: CenterSums, prototypes: [Float], momentum: Float) {
        guard step.clsRows > 0 else { return }
        let keep = momentum, gain = 1 - momentum
        let width = step.bottleneck.count
        for k in cls.indices { cls[k] = keep * cls[k] + gain * (step.cls[k] / Float(step.clsRows)) }
        guard step.patchRows > 0 else { return }
        // The prototype layer is linear: the mean of the logits is the logit of the mean.
        for k in patch.indices {
            var logit = 0.0
            for i in 0..<width { logit += Double(prototypes[k * width + i]) * Double(step.bottleneck[i]) }
            patch[k] = keep * patch[k] + gain * Float(logit / Double(step.patchRows))
        }
    }
}

/// What the centres need of one update, summed over its micro-batches.
package struct CenterSums {
    /// Σ teacher CLS logits [K] over views and images.
    var cls: [Float]
    var clsRows = 0
    /// Σ teacher patch bottleneck vectors over views, images and all patches.
    var bottleneck: [Float]
    var patchRows = 0

    init(prototypes: Int, bottleneck width: Int) {
        cls = [Float](repeating: 0, count: prototypes)
        bottleneck = [Float](repeating: 0, count: width)
    }

    var isFinite: Bool { cls.allSatisfy(\.isFinite) && bottleneck.allSatisfy(\.isFinite) }

    mutating func add(clsLogits: Tensor, patchBottleneck: Tensor?) {
        hssl_sum_rows(clsLogits.rows, clsLogits.width, clsLogits.values, &cls)
        clsRows += clsLogits.rows
        guard let patchBottleneck else { return }
        // A partial sum a micro-batch keeps the rounding of tens of thousands of unit vectors small.
        var partial = [Float](repeating: 0, count: bottleneck.count)
        hssl_sum_rows(patchBottleneck.rows, patchBottleneck.width, patchBottleneck.values, &partial)
        for i in bottleneck.indices { bottleneck[i] += partial[i] }
        patchRows += patchBottleneck.rows
    }
}
