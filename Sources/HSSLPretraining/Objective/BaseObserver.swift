import HSSLGraph
import HSSLModels

/// Somebody who looks at what a base makes of the global views while it learns.
package protocol BaseObserver: AnyObject {
    /// Whether the base learns from the observer, too.
    var teachesBase: Bool { get }
    /// Called once a micro-batch, between the student's forward and backward pass.
    ///
    /// - Returns: what the base is to learn from it; nil: nothing.
    func observe(_ seen: Observation, _ batch: CropBatch, context: StepContext, pool: BufferPool) -> ObservedGradient?
}

/// What student and teacher made of the two global views of some images, view-major. Observers read values only.
package struct Observation {
    package let student: SeenBase
    /// The student once more where nothing follows it.
    package let teacher: SeenBase
    package let settings: StepSettings
}

/// One pass of a base.
package struct SeenBase {
    package let output: BaseOutput
    /// After the final norm [views · images, D].
    package let global: Tensor
}

/// Gradients of the student's tokens and of its global features.
package struct ObservedGradient {
    let tokens: Buffer
    let global: Buffer

    /// As the backward pass takes them; the buffers are handed over.
    func seeds(_ seen: SeenBase) -> [(value: Tensor, gradient: Buffer)] {
        [(seen.output.tokens, tokens), (seen.global, global)]
    }
}
