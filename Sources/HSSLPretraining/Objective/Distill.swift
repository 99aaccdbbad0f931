import CSupport
import HSSLGradients
import HSSLGraph
import HSSLModels

/// What a student needs to know of its teacher before there is an answer.
package struct TeacherShape: Equatable, Sendable {
    /// Channels of a global feature.
    package var width: Int
    /// Coordinates of a cell.
    package var rank: Int
    package var grid: Grid

    package init(width: Int, rank: Int, grid: Grid) { (self.width, self.rank, self.grid) = (width, rank, grid) }
}

/// Distillation of a frozen teacher: what it says of a view, the student is to say of the same view.
package struct DistillSettings: ObjectiveSettings {
    /// Nil until the teacher is known: such settings describe a run and make no objective.
    package var teacher: TeacherShape?
    /// Power of the variance that divides each direction of the teacher's global features; 0 leaves them as they are.
    package var whitening = 0.0
    package var globalWeight: Float = 1
    package var similarityWeight: Float = 1
    /// Images that similarities are taken to.
    package var anchors = 2048
    /// Of the student and of the teacher.
    package var similarityTemperature: (student: Float, teacher: Float) = (0.05, 0.05)
    package var patchWeight: Float = 1
    package var patchTemperature: Float = 0.1
    package var mseWeight: Float = 0
    /// Whether projections keep angles: then what is learnt through them is learnt of the deployed features.
    package var isOrthogonal = true

    package init(teacher: TeacherShape?) { self.teacher = teacher }

    package var name: String { Recipe.distillObjective }
    package var curves: [LossCurve] {
        var curves: [LossCurve] = []
        for (part, label) in [("global", "global"), ("similarity", "similarity"), ("mse", "square")] {
            curves.append(LossCurve("\(part)_base", "\(label) base"))
            curves.append(LossCurve("\(part)_auxiliary", "\(label) auxiliary"))
        }
        return curves + [LossCurve("patch", "patch")]
    }
    package var globalViews: Int { 1 }

    package func makeObjective(student: Network, teacher network: Network?, settings: StepSettings) -> any Objective {
        guard let teacher else { preconditionFailure("the teacher's sizes are known before its student is made") }
        return DistillObjective(student: student, average: network, self, teacher, settings: settings)
    }
}

/// Losses of one view an image, each a mean over the images, for the base and, where there is one, the auxiliary head;
/// t is the teacher's global feature (its directions evened out by `TeacherWhitening`), s the stream's through a
/// projection that is thrown away afterwards (linear, with orthonormal columns unless asked otherwise):
///
/// - global: 1 − cos(s, t);
/// - similarity: KL(softmax(A·t/τ_t) ‖ softmax(A·s/τ_s)) over the anchors A, all unit vectors;
/// - mse: mean over channels of (s − t)².
///
/// And for the base's cells, resampled to the smaller grid where the grids differ:
///
/// - patch: mean over cells of KL between softmaxes of the cosines of a cell to the other cells of its image.
///
/// loss = mean over the streams of their terms + the patch term. Sources: SEED (Fang et al., ICLR 2021), CompRess
/// (Koohpayegani et al., NeurIPS 2020), and for cells SPKD (Tung & Mori, ICCV 2019), whose similarities these are
/// within an image; orthogonal projections as VkD (Miles et al., CVPR 2024); whitened targets as feature distillation
/// (Wei et al., arXiv 2205.14141) and PHI-S (Ranzinger et al., arXiv 2410.01680).
package struct DistillObjective: Objective {
    package let student: Network
    /// The student's average, which is deployed.
    package let teacher: Network?
    package var settings: StepSettings
    /// Nobody looks on: an observer wants two views.
    package var observer: (any BaseObserver)?
    private let method: DistillSettings
    private let shape: TeacherShape
    /// By stream: base, then auxiliary.
    private let projections: [(stream: String, map: Linear)]
    private let patches: CellSimilarities?
    private var anchors: AnchorQueue
    /// Nil: targets are the teacher's answers as they are.
    private var whitening: TeacherWhitening?

    init(
        student: Network, average: Network?, _ method: DistillSettings, _ shape: TeacherShape, settings: StepSettings
    ) {
        (self.student, teacher, self.method, self.shape, self.settings) = (student, average, method, shape, settings)
        let widths = [("base", student.base.width)] + (student.auxiliary.map { [("auxiliary", $0.width)] } ?? [])
        // The average has none: projections are the student's scaffolding.
        let head = ParameterScope(student.parameters)("head")
        projections = widths.map { stream, width in
            (stream, Linear(
                head("\(stream)_projection"), inputs: width, outputs: shape.width, bias: !method.isOrthogonal))
        }
        anchors = AnchorQueue(capacity: method.similarityWeight > 0 ? method.anchors : 0, width: shape.width)
        let learnsGlobals = method.globalWeight > 0 || method.similarityWeight > 0 || method.mseWeight > 0
        whitening = method.whitening > 0 && learnsGlobals ? TeacherWhitening(width: shape.width) : nil
        patches = method.patchWeight > 0 ? CellSimilarities(temperature: method.patchTemperature) : nil
    }

    package func newSums() -> UpdateSums {
        let terms: [(name: String, weight: Float)] = [
            ("global", method.globalWeight), ("similarity", method.similarityWeight), ("mse", method.mseWeight),
        ].filter { $0.1 > 0 }
        let streams = projections.flatMap { stream, _ in
            terms.map { ("\($0.name)_\(stream)", streamWeight * $0.weight) }
        }
        return UpdateSums(losses: Losses(streams + (patches == nil ? [] : [("patch", method.patchWeight)])))
    }

    // MARK: State

    package var state: [(name: String, values: [Float])] { anchors.state + (whitening?.state ?? []) }

    package mutating func restore(_ name: String, _ values: [Float]) {
        if whitening?.restore(name, values) != true { anchors.restore(name, values) }
    }

    package var wantsTeacherSample: Bool { whitening != nil }

    package mutating func learn(from sample: TeacherSample) {
        whitening = TeacherWhitening(of: sample, power: method.whitening)
    }

    package func isFinite(_ sums: UpdateSums) -> Bool { sums.taught.allSatisfy { $0.rows.allSatisfy(\.isFinite) } }

    /// In the order of the images, whatever that of the micro-batches.
    package mutating func updateState(_ sums: UpdateSums, pool: BufferPool) {
        for part in sums.taught.sorted(by: { $0.firstImage < $1.firstImage }) { anchors.append(part.rows) }
    }

    package func didUpdate(pool: BufferPool) {
        guard method.isOrthogonal else { return }
        for (_, projection) in projections { projection.weight.orthogonalize(pool) }
    }

    package var wantsCells: Bool { patches != nil }

    /// Of a teacher that says nothing: for measuring memory.
    package func silentAnswers(images: Int) -> TeacherAnswers? {
        TeacherAnswers(
            globals: [Float](repeating: 0, count: images * shape.width),
            cells: [Float](repeating: 0, count: wantsCells ? images * shape.grid.count * shape.rank : 0))
    }

    /// A copy of the anchors, and what evens out the targets; of an image its answers, also as they came from the
    /// teacher, and its similarities.
    package var heapBytes: (fixed: Int, perImage: Int) {
        let answers = shape.width + (wantsCells ? shape.grid.count * shape.rank : 0)
        return (
            4 * anchors.capacity * anchors.width + (whitening?.bytes ?? 0), 4 * (2 * answers + 2 * anchors.capacity))
    }

    // MARK: One micro-batch

    package func accumulate(_ batch: CropBatch, context: StepContext, pool: BufferPool, into sums: inout UpdateSums) {
        guard let answers = batch.answers else { preconditionFailure("a micro-batch without its teacher's answers") }
        sums.quantization = statistics(batch, context)
        let clock = ContinuousClock.now
        let share = 1 / Double(context.batchImages)
        let fixed = Tape(mode: .inference, pool: pool)
        let globals = whitening?.apply(to: answers.globals) ?? answers.globals
        let raw = fixed.constant(globals, shape: [batch.images, shape.width])
        let targets = raw.l2Normalized()
        sums.taught.append((batch.firstImage, targets.array()))

        let tape = trainingTape(batch, context, part: 0, pool: pool, sums.quantization)
        let pass = pass(batch, views: 0..<1, context)
        let output = student.base(batch.globalInput(tape), mask: nil, pass)
        let global = student.base.global(output)
        sums.features.add(global.l2Normalized())
        let features = [global] + [auxiliaryGlobal(student, output, pass)].compactMap { $0 }

        var losses: [Tensor] = [], seeds: [(value: Tensor, gradient: Buffer)] = []
        // A plan must know what full anchors take.
        let count = batch.isRehearsal ? anchors.capacity : anchors.count
        let similarities = count > 0 ? Similarities(targets, anchors, count: count, method) : nil
        if let similarities {
            sums.targetEntropy += similarities.entropies.reduce(0.0) { $0 + Double($1) }
            sums.targets += batch.images
        }
        for ((stream, projection), feature) in zip(projections, features) {
            let projected = tape.computing(at: projectionPrecision) { projection(feature) }
            if settings.plain { sums.keep("student.\(stream)_projection", projected.array(), batch, context) }
            let unit = projected.l2Normalized()
            func weight(_ term: String) -> Float { Float(sums.losses.weight("\(term)_\(stream)") * share) }
            if method.globalWeight > 0 {
                sums.losses["global_" + stream] += (Double(batch.images) - Cosine.sum(unit, targets)) * share
                seeds.append((unit, Cosine.gradient(towards: targets, weight: -weight("global"))))
            }
            if let similarities {
                let (loss, value) = similarities.divergence(of: unit, weight: weight("similarity"))
                sums.losses["similarity_" + stream] += value * share
                losses.append(loss)
            }
            if method.mseWeight > 0 {
                let (value, gradient) = squares(projected, raw, weight: weight("mse"))
                sums.losses["mse_" + stream] += value * share
                seeds.append((projected, gradient))
            }
        }
        if let patches {
            let cells = student.base.local(output, cells: nil)
                .reshaped([batch.images, output.grid.count, student.base.width])
            let taught = fixed.constant(answers.cells, shape: [batch.images, shape.grid.count, shape.rank])
            let divergence = patches.divergence(
                of: cells, output.grid, from: taught, shape.grid, weight: method.patchWeight * Float(share))
            sums.losses["patch"] += divergence.value * share
            losses += divergence.losses
        }
        let forward = ContinuousClock.now
        BackwardPass.run(from: losses, and: seeds)
        sums.time.forward += forward - clock
        sums.time.backward += ContinuousClock.now - forward
    }

    /// Σ over images of the mean over channels of (a − b)², and its gradient at a times `weight`.
    private func squares(_ a: Tensor, _ b: Tensor, weight: Float) -> (Double, Buffer) {
        let gradient = a.tape.pool.floats(a.count)
        var sum = 0.0
        for i in 0..<a.count {
            let difference = a.values[i] - b.values[i]
            sum += Double(difference) * Double(difference)
            gradient.floats[i] = 2 * weight / Float(a.width) * difference
        }
        return (sum / Double(a.width), gradient)
    }
}

extension Parameter {
    /// One step of Björck and Bowie towards the nearest matrix W [m, n] with orthonormal columns (rows, where these are
    /// fewer): W ← W·(3 − WᵀW)/2. Singular values s become s·(3 − s²)/2, so that those below √3 end at 1.
    fileprivate func orthogonalize(_ pool: BufferPool) {
        let (m, n) = (shape[0], shape[1]), inner = min(m, n), outer = max(m, n)
        let square = pool.floats(inner * inner), product = pool.floats(count)
        let size = max(
            hssl_gemm_f32_unpacked_workspace_size(inner, inner, outer),
            hssl_gemm_f32_unpacked_workspace_size(m, n, inner))
        let workspace = pool.allocate(byteCount: max(1, size))
        withExtendedLifetime((square, product, workspace)) {
            let (gram, cubic, space) = (square.floats, product.floats, workspace.pointer)
            if m >= n {
                hssl_gemm_f32_unpacked(n, n, m, values, 1, n, values, n, 1, gram, n, false, nil, space)
                hssl_gemm_f32_unpacked(m, n, n, values, n, 1, gram, n, 1, cubic, n, false, nil, space)
            } else {
                hssl_gemm_f32_unpacked(m, m, n, values, n, 1, values, 1, n, gram, m, false, nil, space)
                hssl_gemm_f32_unpacked(m, n, m, gram, m, 1, values, n, 1, cubic, n, false, nil, space)
            }
            for i in 0..<count { values[i] = 1.5 * values[i] - 0.5 * cubic[i] }
        }
        valuesDidChange()
    }
}

/// Similarities of some images' targets to the anchors, as distributions.
private struct Similarities {
    private let vectors: [Float]
    private let width: Int
    private let count: Int
    /// [images, count]
    private let distributions: [Float]
    /// Of each image, nats.
    let entropies: [Float]
    private let temperature: Float

    /// - Parameter targets: unit vectors [images, width].
    init(_ targets: Tensor, _ anchors: AnchorQueue, count: Int, _ method: DistillSettings) {
        (width, self.count) = (anchors.width, count)
        vectors = Array(anchors.vectors[..<(count * width)])
        temperature = method.similarityTemperature.student
        let logits = targets.linear(
            weight: targets.tape.constant(vectors, shape: [count, width]), bias: nil, role: .full)
        (distributions, entropies) = sharpened(logits, temperature: method.similarityTemperature.teacher)
    }

    /// Σ over images of KL(distribution ‖ that of `unit`): weighted and differentiable, and as a number.
    func divergence(of unit: Tensor, weight: Float) -> (loss: Tensor, value: Double) {
        let tape = unit.tape
        let logits = unit.linear(weight: tape.constant(vectors, shape: [count, width]), bias: nil, role: .full)
        var rows: [Float] = []
        let loss = logits.softCrossEntropy(
            targets: tape.constant(distributions, shape: logits.shape),
            weights: [Float](repeating: weight, count: unit.rows), temperature: temperature, rowLosses: &rows)
        return (loss, excess(rows, over: entropies))
    }
}

/// Compares how cells of an image resemble one another, for student and teacher.
struct CellSimilarities {
    let temperature: Float

    /// The side of the grid on which both are compared: the smaller one's.
    static func side(_ a: Grid, _ b: Grid) -> Int { min(a.height, b.height) }

    /// Σ over images of the mean over cells of KL(teacher's row ‖ student's row): weighted and differentiable, image by
    /// image, and as a number.
    ///
    /// - Parameters:
    ///   - cells: the student's [images, N, D].
    ///   - taught: the teacher's [images, M, r], on a tape of its own.
    func divergence(
        of cells: Tensor, _ grid: Grid, from taught: Tensor, _ taughtGrid: Grid, weight: Float
    ) -> (losses: [Tensor], value: Double) {
        let side = Self.side(grid, taughtGrid), count = side * side, tape = cells.tape
        let student = unit(cells, grid, side: side), teacher = unit(taught, taughtGrid, side: side)
        // A cell's likeness to itself says nothing, and at a low temperature drowns the others.
        let others = (0..<count * count).filter { $0 / count != $0 % count }.map { Int32($0) }
        func similarities(_ rows: Tensor, _ image: Int) -> Tensor {
            let own = rows.gatheringRows((image * count..<(image + 1) * count).map { Int32($0) })
            return own.linear(weight: own, bias: nil, role: .full).reshaped([count * count, 1]).gatheringRows(others)
                .reshaped([count, count - 1])
        }
        var losses: [Tensor] = [], sum = 0.0
        for image in 0..<cells.shape[0] {
            let (wanted, entropies) = sharpened(similarities(teacher, image), temperature: temperature)
            let found = similarities(student, image)
            var rows: [Float] = []
            losses.append(found.softCrossEntropy(
                targets: tape.constant(wanted, shape: found.shape),
                weights: [Float](repeating: weight / Float(count), count: count), temperature: temperature,
                rowLosses: &rows))
            sum += excess(rows, over: entropies) / Double(count)
        }
        return (losses, sum)
    }

    /// Unit vectors [images · side², D] of cells [images, N, D] on a grid of that side.
    private func unit(_ cells: Tensor, _ grid: Grid, side: Int) -> Tensor {
        var cells = cells
        if grid.height != side {
            let target = Grid(height: side, width: side)
            let map = cells.tape.constant(
                PositionResampling.matrix(from: grid.height, to: target, .bilinear), shape: [target.count, grid.count])
            cells = cells.transposedTokens().linear(weight: map, bias: nil, role: .full).transposedTokens()
        }
        return cells.reshaped([cells.rows, cells.width]).l2Normalized()
    }
}

/// softmax(logits/temperature) of each row, and its entropy in nats.
private func sharpened(_ logits: Tensor, temperature: Float) -> (distributions: [Float], entropies: [Float]) {
    var distributions = [Float](repeating: 0, count: logits.count)
    hssl_softmax(logits.rows, logits.width, logits.values, nil, 1 / temperature, &distributions)
    var entropies = [Float](repeating: 0, count: logits.rows), logSumExp = entropies
    // The cross-entropy of a distribution with itself.
    hssl_soft_cross_entropy(
        logits.rows, logits.width, distributions, logits.values, 1 / temperature, &entropies, &logSumExp)
    return (distributions, entropies)
}

/// Σ (cross-entropy − entropy).
private func excess(_ crossEntropies: [Float], over entropies: [Float]) -> Double {
    zip(crossEntropies, entropies).reduce(0.0) { $0 + Double($1.0) - Double($1.1) }
}
