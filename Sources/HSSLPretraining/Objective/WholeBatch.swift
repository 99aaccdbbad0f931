import CSupport
import HSSLGraph

/// One vector a view and image of an update, view-major [views · images, width], filled micro-batch by micro-batch in
/// any order. Heads that see the whole batch read it as a leaf whose gradient the micro-batches go on with.
struct WholeBatchRows {
    let leaf: Parameter
    private let views: Int
    private let images: Int
    private let width: Int

    init(views: Int, images: Int, width: Int, pool: BufferPool) {
        (self.views, self.images, self.width) = (views, images, width)
        leaf = Parameter(name: "rows", shape: [views * images, width], initializer: .zeros)
        leaf.allocate(from: pool)
    }

    /// - Parameter rows: of some images, view-major.
    func put(_ rows: Tensor, images part: Range<Int>) {
        copy(part) { whole, mine, count in (leaf.values + whole).update(from: rows.values + mine, count: count) }
    }

    /// As a constant of another tape.
    func constant(_ tape: Tape) -> Tensor { tape.constant(shape: leaf.shape, storage: leaf.buffer) }

    /// The gradient of the rows of some images, as `put` takes them.
    func gradient(images part: Range<Int>, pool: BufferPool) -> Buffer {
        let result = pool.zeros(views * part.count * width)
        guard let gradient = leaf.gradient else { return result }
        copy(part) { whole, mine, count in (result.floats + mine).update(from: gradient + whole, count: count) }
        return result
    }

    private func copy(_ part: Range<Int>, _ body: (_ whole: Int, _ mine: Int, _ count: Int) -> Void) {
        for view in 0..<views {
            body((view * images + part.lowerBound) * width, view * part.count * width, part.count * width)
        }
    }
}

/// What waits for the last micro-batch of an update.
final class WaitingBatches {
    /// Features of the teacher; nil without one.
    let teacher: WholeBatchRows?
    /// Features of the student by stream.
    let student: [WholeBatchRows]
    var parts: [Part] = []
    /// Masked cells so far.
    var maskedCells = 0

    init(teacher: WholeBatchRows?, student: [WholeBatchRows] = []) { (self.teacher, self.student) = (teacher, student) }

    struct Part {
        let images: Range<Int>
        /// Nil where the tape is kept.
        let batch: CropBatch?
        let pass: StudentPass?
        /// What an observer has the base learn besides.
        var observed: ObservedGradient?
    }
}

/// A recorded forward pass of the student that waits for the gradient of its features.
struct StudentPass {
    /// For an observer; nil where nobody looks on.
    let base: SeenBase?
    /// By stream.
    let features: [Tensor]
}

extension CropBatch {
    /// Places of its images in the update.
    var range: Range<Int> { firstImage..<firstImage + images }
}
