import CSupport
import HSSLGraph
import XCTest

@testable import HSSLModels
@testable import HSSLRuntime

final class LoweringTests: XCTestCase {
    private func lower(_ tape: Tape, _ output: Tensor, _ precision: Precision = .float32) throws -> Lowering.Result {
        var constants = ConstantTable()
        return try Lowering.lower(tape, outputs: [(output, 0)], precision: precision, constants: &constants)
    }

    func testTransformerIsFused() throws {
        let trace = try ModelTrace(ModelArchitecture(named: "vit_small", imageSize: 224, patchSize: 16))
        let float = try lower(trace.tape, trace.global)
        // patchify, patch product + positions, CLS row; a block: norm, qkv, attention, projection + residual, norm, fc1
        // + GELU, fc2 + residual; in the last one keys and values of all tokens and one query are two products; the
        // last norm, the copy to the features.
        XCTAssertEqual(float.steps.count, 3 + 11 * 7 + 8 + 2)
        XCTAssertEqual(float.steps.last { $0.kind == HSSL_STEP_ATTENTION }?.size, [197, 6, 64, 0, 1, 1])
        XCTAssertFalse(float.steps.contains { $0.kind == HSSL_STEP_ELEMENTWISE })
        let int8 = try lower(trace.tape, trace.global, .int8)
        XCTAssertEqual(int8.steps.filter { $0.kind == HSSL_STEP_LAYER_NORM_QUANTIZE }.count, 12 * 2)
        XCTAssertEqual(int8.steps.filter(\.kind.isLinear).count, 1 + 11 * 4 + 5)  // patches too
        XCTAssertEqual(int8.steps.last { $0.kind == HSSL_STEP_ATTENTION_INTEGER }?.size, [197, 6, 64, 0, 1, 1])
        // Queries, keys and values, the hidden layer and what attention gives become codes: they are kept in binary16.
        XCTAssertEqual(int8.steps.filter { $0.kind == HSSL_STEP_LINEAR_U8S8_F16 }.count, 11 * 2 + 3)
        XCTAssertEqual(int8.steps.filter { $0.kind == HSSL_STEP_QUANTIZE_F16 }.count, 12 * 2)
        XCTAssertEqual(int8.steps.filter { $0.kind == HSSL_STEP_QUANTIZE }.count, 0)
        XCTAssertEqual(int8.steps.filter { $0.kind == HSSL_STEP_UNFOLD_IMAGE_QUANTIZE }.count, 1)
        XCTAssertEqual(int8.steps.filter { $0.kind == HSSL_STEP_LAYER_NORM }.map { $0.size[0] }, [1])
        XCTAssertEqual(int8.steps.filter { $0.activation == HSSL_PLAN_GELU_COARSE }.count, 12)
        XCTAssertEqual(float.steps.filter { $0.activation == HSSL_PLAN_GELU }.count, 12)
        // The last block's products are for the CLS row only, but for keys and values.
        XCTAssertEqual(
            float.steps.filter { $0.kind == HSSL_STEP_LINEAR_F32 }.suffix(6).map { $0.size[0] }, [197, 197, 1, 1, 1, 1])
        // Residual stream, attention output, norms, hidden layer and the next qkv: what is alive during one chain, not
        // the sum. One workspace for all products.
        let workspace = hssl_gemm_workspace_size(197, 384, 384)
        XCTAssertLessThanOrEqual(float.arena.byteCount, 197 * 4 * 384 * 11 + workspace)
        // Of the last block's products there is one row.
        let withWorkspace = float.steps.filter { $0.kind == HSSL_STEP_LINEAR_F32 && $0.workspace != .none }
        XCTAssertEqual(withWorkspace.count, workspace == 0 ? 0 : 1 + 11 * 4 + 1)
        XCTAssertEqual(withWorkspace.last?.size ?? [197, 768, 384, 1152], [197, 768, 384, 1152])
    }

    /// Of a ResNet's products of codes only the two after the max pool read what a step of its own quantised. Nothing
    /// else reads the result of a block's first and second norm, which have codes alone: the first, whose windows
    /// overlap, with one scale. All norms read binary16.
    func testGroupNormsMakeCodes() throws {
        let trace = try ModelTrace(ModelArchitecture(named: "resnet50_gn", imageSize: 224))
        let steps = try lower(trace.tape, trace.global, .int8).steps
        let norms = steps.filter { $0.kind == HSSL_STEP_GROUP_NORM_F16 }
        XCTAssertEqual(norms.count, 1 + 16 * 3 + 4)
        XCTAssertEqual(norms.filter { $0.codes != .none }.count, 16 + 16 + 15)
        XCTAssertEqual(norms.filter { $0.y == .none }.count, 16 + 16)
        XCTAssertEqual(norms.filter { $0.size[3] == 1 }.map { $0.y }, Array(repeating: .none, count: 16))
        let windows = steps.filter { $0.kind == HSSL_STEP_UNFOLD_CODES }
        XCTAssertEqual(windows.map(\.chain), Array(repeating: 2, count: 16))
        XCTAssertEqual(windows.first?.size, [56, 56, 64, 3, 1, 1])
        // Every second position of three grids: those windows do not overlap.
        XCTAssertEqual(steps.filter { $0.kind == HSSL_STEP_UNFOLD_QUANTIZE }.map { $0.size[3] }, [1, 1, 1])
        // The residual stream of a stage stays in one place.
        let sums = norms.filter { $0.residual != .none }
        XCTAssertEqual(sums.map(\.y), sums.map(\.residual))
        XCTAssertEqual(norms.filter { ($0.codes == .none) != ($0.yScale == .none) }.count, 0)
        XCTAssertEqual(steps.filter { $0.kind == HSSL_STEP_QUANTIZE }.map(\.size), [[56 * 56, 64]])
        let floats = try lower(trace.tape, trace.global).steps
        XCTAssertEqual(floats.filter { $0.codes != .none }.count, 0)
        // Residual connections and activations are part of the norms.
        XCTAssertEqual(floats.filter { $0.kind == HSSL_STEP_ELEMENTWISE }.count, 0)
    }

    /// Beyond, the sums of probabilities would not fit 32 bits.
    func testAttentionOfVeryManyTokensStaysInFloats() throws {
        for (tokens, kind) in [
            (Int(HSSL_ATTENTION_INTEGER_TOKENS), HSSL_STEP_ATTENTION_INTEGER),
            (Int(HSSL_ATTENTION_INTEGER_TOKENS) + 1, HSSL_STEP_ATTENTION),
        ] {
            let tape = Tape(mode: .shapes, pool: BufferPool()), set = ParameterSet()
            let weights = [48, 16].map {
                tape.parameter(set.declare("\($0).weight", shape: [$0, 16], initializer: .zeros))
            }
            let output = tape.input(shape: [1, tokens, 16]).linear(weight: weights[0], bias: nil).attention(heads: 1)
                .linear(weight: weights[1], bias: nil)
            XCTAssertEqual(
                try lower(tape, output, .int8).steps.map(\.kind).filter {
                    $0 == HSSL_STEP_ATTENTION || $0 == HSSL_STEP_ATTENTION_INTEGER
                }, [kind])
        }
    }

    /// Attention over codes takes binary16 from a product, and gives it to one: anything else that is read stays in
    /// float32.
    func testAttentionThatIsReadAsFloatsStaysInFloats() throws {
        for (hasProduct, isRead, kind) in [
            (true, false, HSSL_STEP_ATTENTION_INTEGER), (false, false, HSSL_STEP_ATTENTION),
            (true, true, HSSL_STEP_ATTENTION),
        ] {
            let tape = Tape(mode: .shapes, pool: BufferPool()), set = ParameterSet()
            let weights = [48, 16].map {
                tape.parameter(set.declare("\($0).weight", shape: [$0, 16], initializer: .zeros))
            }
            let qkv =
                hasProduct
                ? tape.input(shape: [1, 6, 16]).linear(weight: weights[0], bias: nil) : tape.input(shape: [1, 6, 48])
            let attention = qkv.attention(heads: 1), output = attention.linear(weight: weights[1], bias: nil)
            let steps = try lower(tape, isRead ? attention.adding(branch: output) : output, .int8).steps
            XCTAssertEqual(
                steps.map(\.kind).filter { $0 == HSSL_STEP_ATTENTION || $0 == HSSL_STEP_ATTENTION_INTEGER }, [kind])
        }
    }

    /// Sums of codes hold 65,536 products. Only patches are ever longer.
    func testPatchesTooLongForCodesStayInFloats() throws {
        for (patch, kind) in [(32, HSSL_STEP_LINEAR_U8S8), (160, HSSL_STEP_LINEAR_F32)] {
            let trace = try ModelTrace(ModelArchitecture(named: "vit_nano", imageSize: 320, patchSize: patch))
            XCTAssertEqual(try lower(trace.tape, trace.local, .int8).steps.first { $0.kind.isLinear }?.kind, kind)
        }
    }

    /// The figure that rates are divided by counts what is computed, not what the model could.
    func testOperationsOfClsFeatures() throws {
        let plan = try Plan(ModelArchitecture(named: "vit_small", imageSize: 224, patchSize: 16), precision: .float32)
        let (n, d) = (197.0, 384.0)
        let blocks = 11 * (24 * n * d * d + 4 * n * n * d)
        // Keys and values of all tokens; the query, its scores and its values' mean; projection and MLP of one token.
        let last = 4 * n * d * d + 2 * d * d + 4 * n * d + 18 * d * d
        XCTAssertEqual(plan.operations(.cls), 2 * 196 * d * 768 + blocks + last)
        XCTAssertLessThanOrEqual(plan.operations(.cls, asPerformed: true), plan.operations(.cls))
        XCTAssertEqual(
            plan.operations(.patch), 2 * 196 * d * 768 + 12 * (24 * n * d * d + 4 * n * n * d),
            accuracy: 0.01 * plan.operations(.patch))
    }

    /// From one attention to the next a thread may walk alone; the CLS row of the last block is a chain of its own.
    func testRowsPassFromAttentionToAttention() throws {
        let trace = try ModelTrace(ModelArchitecture(named: "vit_small", imageSize: 224, patchSize: 16))
        for (precision, length) in [(Precision.float32, 6), (.int8, 8)] {
            let steps = try lower(trace.tape, trace.global, precision).steps
            let chains = RowChains.ranges(steps)
            XCTAssertEqual(chains.flatMap(Array.init), Array(steps.indices))
            // The patches of the image may begin one; their size is the image's.
            for chain in chains where chain.count > 1 {
                XCTAssertEqual(Set(steps[chain].filter { $0.xPitch > 0 }.map { $0.size[0] }).count, 1)
            }
            XCTAssertEqual(
                chains.filter { $0.count == length && steps[$0.lowerBound].size[0] == 197 }.count, 11, "\(precision)")
            XCTAssertEqual(steps.filter { $0.chain == length }.count, 11)
        }
    }

    /// Windows that are read outside of the chain are kept whole: in it the next ones take their place.
    func testWindowsThatAreReadAgainAreNoChain() throws {
        let tape = Tape(mode: .shapes, pool: BufferPool()), set = ParameterSet()
        let weights = ["a", "b"].map {
            tape.parameter(set.declare("\($0).weight", shape: [16, 72], initializer: .zeros))
        }
        let windows = tape.input(shape: [1, 8, 8, 8]).unfolded(kernel: 3, stride: 1, padding: 1, from: .grid)
        let products = weights.map { windows.linear(weight: $0, bias: nil) }
        XCTAssertEqual(try lower(tape, products[0]).steps.first?.chain, 2)
        XCTAssertEqual(try lower(tape, products[0].adding(branch: products[1])).steps.first?.chain, 3)
        let mean = windows.reshaped([1, 64, 72]).meanOverTokens().linear(weight: weights[1], bias: nil)
        let sum = products[0].reshaped([1, 64, 16]).meanOverTokens().adding(branch: mean)
        let steps = try lower(tape, sum).steps
        XCTAssertEqual(steps.first?.kind, HSSL_STEP_UNFOLD)
        XCTAssertEqual(steps.first?.chain, 1)
        // Nor one that adds them to what it makes of them.
        let square = tape.parameter(set.declare("c.weight", shape: [72, 72], initializer: .zeros))
        let added = windows.adding(branch: windows.linear(weight: square, bias: nil))
        XCTAssertEqual(try lower(tape, added).steps.first?.chain, 1)
    }

    /// A row that another thread may still need is no chain: here one step reads the rows beside those that the step
    /// before it wrote.
    func testShiftedRowsAreNoChain() {
        func product(_ x: Operand, _ y: Operand) -> PlanStep {
            PlanStep(kind: HSSL_STEP_LINEAR_F32, size: [8, 16, 16, 16], x: x, y: y, xPitch: 64, yPitch: 64)
        }
        let first = product(.arena(storage: 0, offset: 0), .arena(storage: 1, offset: 0))
        XCTAssertEqual(
            RowChains.ranges([first, product(.arena(storage: 1, offset: 0), .arena(storage: 2, offset: 0))]), [0..<2])
        XCTAssertEqual(
            RowChains.ranges([first, product(.arena(storage: 1, offset: 64), .arena(storage: 2, offset: 0))]),
            [0..<1, 1..<2])
    }

    func testStoragesThatLiveTogetherAreApart() throws {
        let trace = try ModelTrace(ModelArchitecture(named: "vit_nano", imageSize: 28, patchSize: 4))
        for precision in Precision.allCases {
            let result = try lower(trace.tape, trace.local, precision)
            // What one step of a chain touches is alive during all of them.
            let chains = RowChains.ranges(result.steps)
            let turns = chains.enumerated().flatMap { turn, chain in chain.map { _ in turn } }
            let lifetimes = ArenaLayout.lifetimes(result.arena.offsets.count, result.steps).map {
                $0.map { turns[$0.lowerBound]...turns[$0.upperBound] }
            }
            for (a, lifeA) in lifetimes.enumerated() {
                guard let lifeA, let offsetA = result.arena.offsets[a] else { continue }
                XCTAssertEqual(offsetA % 64, 0)
                for (b, lifeB) in lifetimes.enumerated() where b > a {
                    guard let lifeB, let offsetB = result.arena.offsets[b], lifeA.overlaps(lifeB) else { continue }
                    XCTAssertTrue(
                        offsetA + result.sizes[a] <= offsetB || offsetB + result.sizes[b] <= offsetA,
                        "storages \(a) and \(b)")
                }
            }
        }
    }

    /// An auxiliary head is a model like any other: convolutions, means and plain residuals lower by the same rules.
    func testConvNeXtHeadEqualsTheTape() throws {
        let set = ParameterSet()
        let pool = BufferPool()
        var settings = HeadSettings(family: "convnext", depth: 3)
        settings.kernelSize = 5
        let grid = Grid(height: 4, width: 4)
        let head = try AuxiliaryHead(ParameterScope(set), over: GridShape(grid: grid, width: 24), settings)
        set.allocate(from: pool)
        set.initialize(seed: 5)
        for precision in [Precision.float32, .int8] {
            for plain in [false, true] {
                func forward(_ tape: Tape, _ fill: (Tensor) -> Void = { _ in }) -> (Tensor, Tensor) {
                    let input = tape.input(shape: [1, 17, 24])
                    fill(input)
                    return (
                        input, head.global(BaseOutput(tokens: input, prefix: 1, grid: grid).cells, Pass(plain: plain))
                    )
                }
                let eager = Tape(mode: .inference, precision: precision, pool: pool)
                let (input, expected) = forward(eager) { input in
                    var random = CounterRandom(seed: 9, stream: 1, 0)
                    for i in 0..<input.count { input.values[i] = random.normal() }
                }

                let traced = Tape(mode: .shapes, pool: pool)
                var constants = ConstantTable()
                let result = try Lowering.lower(
                    traced, outputs: [(forward(traced).1, 0)], precision: precision, constants: &constants)
                // The tape's GELU is exact and its hidden values are float32; of what GELU leaves the plan's codes have
                // another zero and finer steps.
                let found = try run(result, constants, set, input.array(), count: 24)
                XCTAssertLessThan(
                    relativeError(found, expected.array()), precision == .int8 ? 2e-2 : 1e-5,
                    "\(precision), plain \(plain)")
            }
        }
    }

    func testPositionsAtAnotherGridAreFolded() throws {
        let architecture = try ModelArchitecture(
            VisionTransformer.Configuration(imageSize: 16, patchSize: 4, embedDim: 24, depth: 1, numHeads: 2))
        let set = ParameterSet()
        let pool = BufferPool()
        let model = try architecture.makeBase(ParameterScope(set), .deployment)
        set.allocate(from: pool)
        set.initialize(seed: 2)
        let eager = Tape(mode: .inference, pool: pool)
        let images = eager.input(shape: [1, 3, 24, 24])
        for i in 0..<images.count { images.values[i] = Float(i % 17) / 17 }
        let expected = model(images, mask: nil, Pass()).tokens

        let traced = Tape(mode: .shapes, pool: pool)
        let output = model(traced.input(shape: [1, 3, 24, 24]), mask: nil, Pass()).tokens
        var constants = ConstantTable()
        let result = try Lowering.lower(traced, outputs: [(output, 0)], precision: .float32, constants: &constants)
        XCTAssertLessThan(
            relativeError(try run(result, constants, set, images.array(), count: expected.count), expected.array()),
            1e-5)
    }

    func testGatherAndStandaloneOperations() throws {
        let pool = BufferPool()
        func forward(_ tape: Tape, _ fill: (Tensor) -> Void = { _ in }) -> (Tensor, Tensor) {
            let x = tape.input(shape: [1, 6, 8])
            fill(x)
            let rows = x.gelu().gatheringRows([5, 1, 3])
            return (x, rows.adding(branch: rows.l2Normalized()))
        }
        let eager = Tape(mode: .inference, pool: pool)
        let (input, expected) = forward(eager) { input in
            for i in 0..<input.count { input.values[i] = Float(i % 7) - 3 }
        }
        let traced = Tape(mode: .shapes, pool: pool)
        var constants = ConstantTable()
        let result = try Lowering.lower(
            traced, outputs: [(forward(traced).1, 0)], precision: .float32, constants: &constants)
        XCTAssertLessThan(
            relativeError(try run(result, constants, ParameterSet(), input.array(), count: 24), expected.array()), 1e-6)
    }

    /// GELU may be coarse where 8-bit codes of it are all that is read, and where weights are rounded to binary16.
    func testCoarseGELUIsForCodesAndBinary16() throws {
        for (precision, isRead, expected) in [
            (Precision.int8, false, HSSL_PLAN_GELU_COARSE), (.int8, true, HSSL_PLAN_GELU),
            (.float32, false, HSSL_PLAN_GELU),
            (.float16, false, HSSL_PLAN_GELU_COARSE), (.float16, true, HSSL_PLAN_GELU_COARSE),
        ] {
            let tape = Tape(mode: .shapes, pool: BufferPool()), set = ParameterSet()
            let weights = ["a.weight", "b.weight"].map {
                tape.parameter(set.declare($0, shape: [8, 8], initializer: .zeros))
            }
            let hidden = tape.input(shape: [1, 6, 8]).linear(weight: weights[0], bias: nil).gelu()
            let output = hidden.linear(weight: weights[1], bias: nil)
            let steps = try lower(tape, isRead ? hidden.adding(branch: output) : output, precision).steps
            XCTAssertEqual(
                steps.map(\.activation).filter { $0 != HSSL_PLAN_IDENTITY }, [expected], "\(precision) \(isRead)")
        }
    }

    /// The codes of GELU's result keep one zero, that of attention's, the norms' and ReLU's another: the middle.
    func testZerosOfCodes() throws {
        func zeros(_ steps: [PlanStep], _ kinds: [hssl_plan_kind]) -> [UInt8] {
            steps.filter { kinds.contains($0.kind) && (!$0.kind.isGroupNorm || $0.codes != .none) }.map(\.zero)
        }
        let transformer = try ModelTrace(ModelArchitecture(named: "vit_small", imageSize: 224, patchSize: 16))
        let blocks = try lower(transformer.tape, transformer.global, .int8).steps
        XCTAssertEqual(
            zeros(blocks, [HSSL_STEP_QUANTIZE_F16]), (0..<24).map { $0 % 2 == 0 ? 128 : Representations.zeroOfGELU })
        XCTAssertEqual(Set(zeros(blocks, [HSSL_STEP_UNFOLD_IMAGE_QUANTIZE, HSSL_STEP_LAYER_NORM_QUANTIZE])), [128])
        let residual = try ModelTrace(ModelArchitecture(named: "resnet50_gn", imageSize: 224))
        let steps = try lower(residual.tape, residual.global, .int8).steps
        XCTAssertEqual(
            Set(zeros(
                steps,
                [
                    HSSL_STEP_QUANTIZE, HSSL_STEP_GROUP_NORM_F16, HSSL_STEP_UNFOLD_CODES,
                    HSSL_STEP_UNFOLD_IMAGE_QUANTIZE,
                ])), [128])
    }

    /// Weights and inputs are codes already, so that what the hidden values lose is all that is lost: less than with
    /// the tape's symmetric codes, and the same on every row of kernels.
    func testCodesBehindGELUAreNearerThanSymmetricOnes() throws {
        let (rows, width, hidden) = (40, 32, 96), pool = BufferPool(), set = ParameterSet()
        let parameters = [("a.weight", [hidden, width]), ("b.weight", [width, hidden])].map {
            set.declare($0.0, shape: $0.1, initializer: .zeros)
        }
        set.allocate(from: pool)
        /// Rows of multiples of 1/127, one of which is 1.
        func fill(_ values: UnsafeMutablePointer<Float>, count: Int, width: Int, seed: UInt64) {
            var random = CounterRandom(seed: seed, stream: 1, 0)
            for i in 0..<count {
                let value = (max(-3, min(3, random.normal())) * 42).rounded() / 127
                values[i] = i % width == i / width % width ? 1 : value
            }
        }
        for (seed, parameter) in parameters.enumerated() {
            fill(parameter.values, count: parameter.count, width: parameter.shape[1], seed: UInt64(seed))
        }
        func forward(_ tape: Tape, _ fill: (Tensor) -> Void = { _ in }) -> (Tensor, Tensor) {
            let x = tape.input(shape: [1, rows, width])
            fill(x)
            let hidden = x.linear(weight: tape.parameter(parameters[0]), bias: nil).gelu()
            return (x, hidden.linear(weight: tape.parameter(parameters[1]), bias: nil))
        }
        func eager(_ precision: Precision) -> (input: [Float], output: [Float]) {
            let (input, output) = forward(Tape(mode: .inference, precision: precision, pool: pool)) {
                fill($0.values, count: $0.count, width: width, seed: 9)
            }
            return (input.array(), output.array())
        }
        let exact = eager(.float32), traced = Tape(mode: .shapes, pool: pool)
        func error(_ found: [Float]) -> Float {
            zip(found, exact.output).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }.squareRoot()
        }
        var constants = ConstantTable()
        let result = try Lowering.lower(
            traced, outputs: [(forward(traced).1, 0)], precision: .int8, constants: &constants)
        let found = try supportedISAs.map { isa in
            try withISA(isa) { try run(result, constants, set, exact.input, count: rows * width) }
        }
        for other in found { XCTAssertEqual(other, found[0]) }
        XCTAssertLessThan(error(found[0]), 0.65 * error(eager(.int8).output))
    }

    func testTrainingOperationsAreRefused() throws {
        let tape = Tape(mode: .shapes, pool: BufferPool())
        let x = tape.input(shape: [1, 4, 8])
        let token = ParameterSet().declare("mask_token", shape: [1, 8], initializer: .zeros)
        let masked = x.masked([0, 1, 0, 0], token: tape.parameter(token))
        XCTAssertThrowsError(try lower(tape, masked)) {
            XCTAssertEqual("\($0)", "operation maskTokens is not part of inference")
        }
        let dropped = x.adding(branch: x, scale: [0])
        XCTAssertThrowsError(try lower(tape, dropped)) {
            XCTAssertEqual("\($0)", "stochastic depth is not part of inference")
        }
        var rowLosses: [[Float]] = []
        let rows = PrototypeRows(
            rows: tape.input(shape: [2, 8]), targets: [.distributions(tape.input(shape: [2, 3]), index: [0, 1])],
            weights: [1, 1])
        let loss = tape.input(shape: [3, 8]).prototypeCrossEntropy(of: [rows], temperature: 0.1, rowLosses: &rowLosses)
        XCTAssertThrowsError(try lower(tape, loss)) {
            XCTAssertEqual("\($0)", "operation prototypeCrossEntropy is not part of inference")
        }
    }

    private func run(
        _ result: Lowering.Result, _ constants: ConstantTable, _ set: ParameterSet, _ input: [Float], count: Int
    ) throws -> [Float] {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: constants.byteCount + 64, alignment: 64)
        let scratch = ArenaLayout.aligned(Int(hssl_get_threads()) * result.workspaceBytes)
        let arena = UnsafeMutableRawPointer.allocate(byteCount: result.arena.byteCount + scratch + 64, alignment: 64)
        defer {
            memory.deallocate()
            arena.deallocate()
        }
        // Whatever a step reads without anyone having written it shows.
        memset(arena, 0xFF, result.arena.byteCount)
        try constants.fill(memory, from: ParameterWeights(parameters: set, prefix: ""))
        let steps = result.steps.map { $0.native { Plan.address($0, result.arena, constants) } }
        var output = [Float](repeating: .nan, count: count)
        steps.withUnsafeBufferPointer { steps in
            var plan = hssl_plan(
                steps: steps.baseAddress, step_count: steps.count, constants: memory, image_bytes: input.count * 4,
                features_bytes: count * 4,
                arena_bytes: result.arena.byteCount, workspace_bytes: scratch)
            hssl_plan_run(&plan, 1, input, &output, arena)
        }
        return output
    }
}
