import HSSLGraph

/// The views of some images and their masks, image by image: what one micro-batch learns from.
package final class CropBatch: @unchecked Sendable {  // filled by one loader thread, then handed over
    package let images: Int
    /// Of an image.
    package let globalViews: Int
    package let globalSize: Int
    package let localViews: Int
    package let localSize: Int
    /// [images, globalViews, 3, globalSize, globalSize]
    package var globals: [Float]
    /// [images, localViews, 3, localSize, localSize]
    package var locals: [Float]
    /// [images, globalViews, N], 1 where the student does not see the patch
    package var masks: [UInt8]
    /// Place of the first image in the whole batch: keys of the random draws.
    package let firstImage: Int
    /// Where a frozen teacher teaches: which view each image's is.
    package var keys: [ViewKey] = []
    /// The same views as the teacher takes them [images, 3, side, side]; empty where it does not run now.
    package var teacherViews: [Float] = []
    /// What the teacher says of them.
    package var answers: TeacherAnswers?
    /// Stands for a real one where memory is measured: what an objective has still to gather counts as complete.
    package var isRehearsal = false

    package init(
        images: Int, globalViews: Int = 2, globalSize: Int, localViews: Int, localSize: Int, tokens: Int,
        firstImage: Int
    ) {
        self.images = images
        self.globalViews = globalViews
        self.globalSize = globalSize
        self.localViews = localViews
        self.localSize = localSize
        self.firstImage = firstImage
        globals = [Float](repeating: 0, count: images * globalViews * 3 * globalSize * globalSize)
        locals = [Float](repeating: 0, count: images * localViews * 3 * localSize * localSize)
        masks = [UInt8](repeating: 0, count: images * globalViews * tokens)
    }

    /// The same images with their first global view alone.
    func firstView() -> CropBatch {
        let tokens = self.tokens, first = CropBatch(
            images: images, globalViews: 1, globalSize: globalSize, localViews: localViews, localSize: localSize,
            tokens: tokens, firstImage: firstImage)
        func take<Element>(_ count: Int, from views: [Element]) -> [Element] {
            (0..<images).flatMap { views[$0 * globalViews * count..<($0 * globalViews + 1) * count] }
        }
        first.globals = take(3 * globalSize * globalSize, from: globals)
        first.masks = take(tokens, from: masks)
        first.locals = locals
        return first
    }

    package var tokens: Int { images == 0 ? 0 : masks.count / (images * globalViews) }

    /// All global views as network input, view-major: rows 0 ..< images are view 0.
    func globalInput(_ tape: Tape) -> Tensor { input(tape, globals, views: globalViews, size: globalSize) }
    func localInput(_ tape: Tape) -> Tensor { input(tape, locals, views: localViews, size: localSize) }

    private func input(_ tape: Tape, _ crops: [Float], views: Int, size: Int) -> Tensor {
        let tensor = tape.input(shape: [views * images, 3, size, size])
        let crop = 3 * size * size
        crops.withUnsafeBufferPointer { source in
            guard let start = source.baseAddress else { return }
            for view in 0..<views {
                for image in 0..<images {
                    (tensor.values + (view * images + image) * crop).update(
                        from: start + (image * views + view) * crop, count: crop)
                }
            }
        }
        return tensor
    }

    /// Masks of the global views, view-major [2·images · N].
    func viewMajorMasks() -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(masks.count)
        for view in 0..<globalViews {
            for image in 0..<images {
                let start = (image * globalViews + view) * tokens
                result += masks[start..<start + tokens]
            }
        }
        return result
    }
}
