import HSSLGradients
import HSSLGraph
import HSSLModels

/// SimMIM: the pixels of masked cells from the tokens that stand there, by a linear layer a stream.
///
/// loss = mean over the streams of Σ|pixel − prediction| over masked pixels / their number. Under HSSL also
/// weight·mean(1 − cos(h(mean token), BN(CLS))): the base imitates the teacher head's global feature of the unmasked
/// image, normalised over the batch so that a constant is no solution.
/// Source: Xie et al., "SimMIM: a simple framework for masked image modeling", CVPR 2022; the second term is this
/// project's.
package struct SimMIMSettings: ObjectiveSettings {
    /// Pixels a side of a cell.
    package var maskStride: Int
    /// Of the term that the base imitates the head with.
    package var globalWeight: Float = 1

    package init(maskStride: Int) { self.maskStride = maskStride }

    package var name: String { "simmim" }
    package var curves: [LossCurve] {
        [
            LossCurve("pixels_base", "pixels base"), LossCurve("pixels_auxiliary", "pixels auxiliary"),
            LossCurve("global_base", "global base"),
        ]
    }
    package var globalViews: Int { 1 }
    package var masksPatches: Bool { true }
    package func couplesImages(hasAuxiliary: Bool) -> Bool { hasAuxiliary }
    package func hasTeacher(hasAuxiliary: Bool) -> Bool { hasAuxiliary }

    package func makeObjective(student: Network, teacher: Network?, settings: StepSettings) -> any Objective {
        SimMIMObjective(student: student, teacher: teacher, self, settings: settings)
    }
}

/// An update waits until all of it is there: how many cells are masked and the statistics of the teacher's features are
/// those of the whole. Then every micro-batch is learnt from by itself.
package struct SimMIMObjective: Objective {
    package let student: Network
    package let teacher: Network?
    package var settings: StepSettings
    package var observer: (any BaseObserver)?
    private let method: SimMIMSettings
    /// By stream: base, then auxiliary.
    private let decoders: [Linear]
    /// Of the mean token of the base, under HSSL.
    private let predictor: (first: Linear, second: Linear)?

    private static let streams = ["base", "auxiliary"]

    init(student: Network, teacher: Network?, _ method: SimMIMSettings, settings: StepSettings) {
        (self.student, self.teacher, self.method, self.settings) = (student, teacher, method, settings)
        let head = ParameterScope(student.parameters)("head"), width = student.base.width
        let widths = [width] + (student.auxiliary.map { [$0.width] } ?? [])
        decoders = zip(Self.streams, widths).map { name, width in
            Linear(head("\(name)_decoder"), inputs: width, outputs: 3 * method.maskStride * method.maskStride)
        }
        predictor = student.auxiliary.map { auxiliary in
            let scope = head("base_predictor")
            return (
                Linear(scope("0"), inputs: width, outputs: 2 * width),
                Linear(scope("2"), inputs: 2 * width, outputs: auxiliary.width)
            )
        }
    }

    package func newSums() -> UpdateSums {
        let pixels = zip(Self.streams, decoders).map { ("pixels_" + $0.0, streamWeight) }
        return UpdateSums(losses: Losses(pixels + (hasAuxiliary ? [("global_base", method.globalWeight)] : [])))
    }

    package func accumulate(_ batch: CropBatch, context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        show(batch, context, pool: pool)
        let batch = batch.globalViews == method.globalViews ? batch : batch.firstView()
        let waiting = sums.waiting ?? newWaiting(images: context.batchImages, pool: pool)
        sums.waiting = waiting
        waiting.maskedCells += batch.masks.count { $0 != 0 }
        waiting.parts.append(.init(images: batch.range, batch: batch, pass: nil))
        guard let teacher else { return }
        let clock = ContinuousClock.now
        let tape = Tape(mode: .inference, precision: settings.precision, pool: pool), pass = Pass(plain: settings.plain)
        let output = teacher.base(batch.globalInput(tape), mask: nil, pass)
        if let global = auxiliaryGlobal(teacher, output, pass) { waiting.teacher?.put(global, images: batch.range) }
        sums.features.add(teacher.base.global(output).l2Normalized())
        sums.time.teacher += ContinuousClock.now - clock
    }

    /// Who looks on sees two whole views of an image; the base itself learns from one, masked.
    private func show(_ batch: CropBatch, _ context: StepContext, pool: BufferPool) {
        guard let observer else { return }
        let tape = observer.teachesBase
            ? trainingTape(batch, context, part: 1, pool: pool, nil)
            : Tape(mode: .inference, precision: settings.precision, pool: pool)
        func see(_ network: Network, _ tape: Tape) -> SeenBase {
            let output = network.base(batch.globalInput(tape), mask: nil, Pass(plain: settings.plain))
            return SeenBase(output: output, global: network.base.global(output))
        }
        let seen = see(student, tape)
        let taught = teacher.map { see($0, Tape(mode: .inference, precision: settings.precision, pool: pool)) }
        let gradient = observer.observe(
            .init(student: seen, teacher: taught ?? seen, settings: settings), batch, context: context, pool: pool)
        if let gradient { BackwardPass.run(from: gradient.seeds(seen)) }
    }

    private func newWaiting(images: Int, pool: BufferPool) -> WaitingBatches {
        WaitingBatches(
            teacher: teacher?.auxiliary.map {
                WholeBatchRows(views: 1, images: images, width: $0.width, pool: pool)
            })
    }

    package func finish(context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        guard let waiting = sums.waiting else { return }
        sums.waiting = nil
        let clock = ContinuousClock.now, backward = sums.time.backward
        let targets = waiting.teacher.map { directions($0, pool: pool) }
        if hasAuxiliary { sums.losses.weigh("global_base", context.globalWeight ?? method.globalWeight) }
        for part in waiting.parts {
            guard let batch = part.batch else { continue }
            learn(batch, context, maskedCells: waiting.maskedCells, targets: targets, pool: pool, into: &sums)
        }
        sums.time.forward += ContinuousClock.now - clock - (sums.time.backward - backward)
    }

    /// Unit vectors [images, D] along the teacher's features, normalised over the batch.
    private func directions(_ rows: WholeBatchRows, pool: BufferPool) -> Tensor {
        let tape = Tape(mode: .inference, pool: pool)
        let x = rows.constant(tape)
        let norm = BatchNorm(ParameterScope(ParameterSet()), width: x.width, affine: false)
        return norm(x, views: 1).l2Normalized()
    }

    // MARK: One micro-batch

    private func learn(
        _ batch: CropBatch, _ context: StepContext, maskedCells: Int, targets: Tensor?, pool: BufferPool,
        into sums: inout UpdateSums
    ) {
        let isLast = batch.range.upperBound == context.batchImages
        sums.quantization = settings.precision == .int8 && isLast ? QuantizationStatistics() : sums.quantization
        let tape = trainingTape(batch, context, part: 0, pool: pool, isLast ? sums.quantization : nil)
        let pass = pass(batch, views: 0..<1, context), masks = batch.viewMajorMasks()
        let images = batch.globalInput(tape)
        let output = student.base(images, mask: masks, pass)
        if teacher == nil { sums.features.add(student.base.global(output).l2Normalized()) }

        let cells = masks.indices.filter { masks[$0] != 0 }.map { Int32($0) }
        let stride = method.maskStride, everything = settings.plain || hasAuxiliary
        let tokens = student.base.local(output, cells: everything ? nil : cells)
        var streams = [everything ? tokens.gatheringRows(cells) : tokens], whole = [tokens]
        if let auxiliary = student.auxiliary {
            whole.append(auxiliary.local(output.cells, afterBase(pass, student)))
            streams.append(whole[1].gatheringRows(cells))
        }
        var seeds: [(value: Tensor, gradient: Buffer)] = []
        if !cells.isEmpty {
            let windows = images.unfolded(kernel: stride, stride: stride, from: .image)
            let pixels = windows.reshaped([windows.rows, windows.width]).gatheringRows(cells)
            // The definition adds ε to the number of masked values.
            let share = 1 / (Double(3 * stride * stride) * Double(maskedCells) + 1e-5)
            for ((name, decoder), rows) in zip(zip(Self.streams, decoders), streams) {
                let decoded = tape.computing(at: projectionPrecision) { decoder(rows) }
                let (loss, seed) = distance(decoded, pixels, weight: streamWeight * Float(share))
                sums.losses["pixels_" + name] += loss * share
                seeds.append((decoded, seed))
            }
        }
        if settings.plain { keepPixels(whole, batch, context, into: &sums) }
        if let targets, let predictor {
            let mean = tokens.reshaped([batch.images, batch.tokens, tokens.width]).meanOverTokens()
            let prediction = tape.computing(at: projectionPrecision) {
                predictor.second(predictor.first(mean, activation: .gelu))
            }
            if settings.plain { sums.keep("student.base_prediction", prediction.array(), batch, context) }
            let unit = prediction.l2Normalized(), share = 1 / Double(context.batchImages)
            let wanted = targets.gatheringRows(batch.range.map { Int32($0) })
            sums.losses["global_base"] += (Double(batch.images) - Cosine.sum(unit, wanted)) * share
            let weight = Float(sums.losses.weight("global_base") * share)
            seeds.append((unit, Cosine.gradient(towards: wanted, weight: -weight)))
        }
        let clock = ContinuousClock.now
        BackwardPass.run(from: seeds)
        sums.time.backward += ContinuousClock.now - clock
    }

    /// Σ|a − b| and weight·sign(a − b).
    private func distance(_ a: Tensor, _ b: Tensor, weight: Float) -> (Double, Buffer) {
        let gradient = a.tape.pool.floats(a.count)
        var sum = 0.0
        for i in 0..<a.count {
            let difference = a.values[i] - b.values[i]
            sum += Double(abs(difference))
            // NaN stays NaN, so that the update is skipped.
            gradient.floats[i] = difference > 0 ? weight : difference < 0 ? -weight : 0 * difference
        }
        return (sum, gradient)
    }

    /// Every stream's pixels of all cells as images [images, 3, H, W]: what tests compare.
    private func keepPixels(_ tokens: [Tensor], _ batch: CropBatch, _ context: StepContext, into sums: inout UpdateSums)
    {
        let (p, side) = (method.maskStride, batch.globalSize), cells = side / method.maskStride
        for ((name, decoder), rows) in zip(zip(Self.streams, decoders), tokens) {
            let decoded = decoder(rows).array()
            var pictures = [Float](repeating: 0, count: decoded.count)
            for (place, value) in decoded.enumerated() {
                let (cell, element) = (place / (3 * p * p), place % (3 * p * p))
                let (image, i, j) = (cell / (cells * cells), cell / cells % cells, cell % cells)
                let (channel, u, v) = (element / (p * p), element / p % p, element % p)
                pictures[((image * 3 + channel) * side + i * p + u) * side + j * p + v] = value
            }
            sums.keep("student.\(name)_pixels", pictures, batch, context)
        }
    }

    package var waits: Bool { true }

    package func rehearse(images: Int, pool: BufferPool) {
        if let rows = newWaiting(images: images, pool: pool).teacher { _ = directions(rows, pool: pool) }
    }
}
