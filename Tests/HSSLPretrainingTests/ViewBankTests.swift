import CSupport
import Foundation
import HSSLData
import HSSLGraph
import HSSLRuntime
import XCTest

@testable import HSSLFormats
@testable import HSSLModels
@testable import HSSLPretraining

/// Banks of a small teacher with random weights.
final class ViewBankTests: TrainerTestCase {
    private static let width = 96

    override func setUpWithError() throws {
        try super.setUpWithError()
        try writeBase("teacher.safetensors", imageSize: 16)
    }

    private func request(
        draws: Int = 3, rank: Int = 0, cells: Bool = true, seed: UInt64 = 5, teacher: String = "teacher.safetensors",
        precision: HSSLGraph.Precision = .float32, data: String = "train",
        _ change: (inout Recipe.Data) -> Void = { _ in }
    ) throws -> ViewBankRequest {
        var augmentation = Recipe.Data()
        augmentation.globalCropsScale = [0.3, 1]
        change(&augmentation)
        return ViewBankRequest(
            settings: ViewBankSettings(draws: draws, rank: rank, cells: cells, seed: seed, augmentation: augmentation),
            teacher: try ModelFile(path: "\(root)/\(teacher)"), precision: precision,
            dataset: try Dataset(path: "\(root)/\(data)"))
    }

    private func options(threads: Int = 1, resume: Bool = true, imagesPerShard: Int = 10) -> ViewBankWriter.Options {
        var options = ViewBankWriter.Options()
        (options.resume, options.startsIfMissing) = (resume, true)
        (options.threads, options.loaderThreads, options.imagesPerShard) = (threads, threads, imagesPerShard)
        return options
    }

    /// - Parameter stopAfter: so many questions whether to stop.
    @discardableResult
    private func fill(
        _ name: String, _ request: ViewBankRequest, _ options: ViewBankWriter.Options? = nil, stopAfter: Int = .max,
        notices: (String) -> Void = { _ in }
    ) throws -> ViewBankWriter.Ending {
        var asked = 0
        return try ViewBankWriter(path: "\(root)/\(name)", request: request, options: options ?? self.options()).run(
            shouldStop: {
                asked += 1
                return asked > stopAfter
            }, progress: { _, _ in }, notice: notices)
    }

    private func open(_ name: String, _ request: ViewBankRequest) throws -> ViewBank? {
        try ViewBank.open(
            "\(root)/\(name)", orFill: request, options: options(), shouldStop: { false }, progress: { _, _ in },
            notice: { _ in })
    }

    /// What the teacher itself says of every draw of an image.
    private func direct(_ request: ViewBankRequest, image: Int) throws -> TeacherAnswers {
        let draws = request.settings.draws
        let views = FrozenTeacher.augmentation(request.settings.augmentation, for: request.teacher)
        let size = views.count(ofView: 0), picture = try request.dataset.image(image)
        var pixels = [Float](repeating: 0, count: draws * size)
        pixels.withUnsafeMutableBufferPointer { pixels in
            for draw in 0..<draws {
                views.make(
                    view: 0, of: picture, key: .init(seed: request.settings.seed, epoch: draw, index: image),
                    into: pixels.baseAddress! + draw * size)
            }
        }
        let teacher = try RunningTeacher(
            model: Model(file: request.teacher, precision: request.precision), threads: 1, wantsCells: true)
        return try teacher.answers(for: (0..<draws).map { ViewKey(index: image, draw: $0) }) { pixels }
    }

    private func cosine(_ a: some Collection<Float>, _ b: some Collection<Float>) -> Double {
        var (ab, aa, bb) = (0.0, 0.0, 0.0)
        for (x, y) in zip(a, b) { (ab, aa, bb) = (ab + Double(x * y), aa + Double(x * x), bb + Double(y * y)) }
        return ab / (aa * bb).squareRoot()
    }

    /// Inner products of the cells of a view with one another.
    private func products(_ cells: ArraySlice<Float>, width: Int) -> [Float] {
        let rows = stride(from: cells.startIndex, to: cells.endIndex, by: width).map { Array(cells[$0..<$0 + width]) }
        return rows.flatMap { a in rows.map { b in zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } } }
    }

    private func relativeError(_ a: [Float], _ b: [Float]) -> Double {
        let wrong = zip(a, b).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
        return (wrong / b.reduce(0.0) { $0 + Double($1 * $1) }).squareRoot()
    }

    private func files(_ name: String) throws -> [String: Data] {
        let names = try FileManager.default.contentsOfDirectory(atPath: "\(root)/\(name)")
        return try Dictionary(uniqueKeysWithValues: names.map {
            ($0, try Data(contentsOf: URL(fileURLWithPath: "\(root)/\(name)/\($0)")))
        })
    }

    // MARK: Answers

    func testAnswersAreTheTeachersUpToTheirCodes() throws {
        for (rank, bound) in [(0, 0.01), (48, 0.03), (8, 0.3)] {
            let request = try request(rank: rank)
            let bank = try XCTUnwrap(open("bank\(rank)", request))
            let kept = rank == 0 ? Self.width : rank
            XCTAssertEqual([bank.width, bank.rank, bank.grid.count, bank.draws], [Self.width, kept, 16, 3])
            for image in [0, 9, 10, 63] {
                let wanted = try direct(request, image: image)
                let keys = (0..<3).map { ViewKey(index: image, draw: $0) }
                let found = try bank.answers(for: keys) { [] }
                for draw in 0..<3 {
                    let global = draw * Self.width..<(draw + 1) * Self.width
                    XCTAssertGreaterThanOrEqual(cosine(found.globals[global], wanted.globals[global]), 0.9999)
                    func products(_ cells: [Float], _ width: Int) -> [Float] {
                        self.products(cells[draw * 16 * width..<(draw + 1) * 16 * width], width: width)
                    }
                    let error = relativeError(products(found.cells, kept), products(wanted.cells, Self.width))
                    XCTAssertLessThan(error, bound, "rank \(rank) image \(image) draw \(draw)")
                    XCTAssertGreaterThan(error, 0)
                }
            }
        }
        // Directions that matter: half of them keep more than half.
        let halves = try ViewBank(path: root + "/bank48"), few = try ViewBank(path: root + "/bank8")
        XCTAssertGreaterThan(try XCTUnwrap(halves.keptShare), 0.97)
        XCTAssertLessThan(try XCTUnwrap(few.keptShare), try XCTUnwrap(halves.keptShare))
        XCTAssertNil(try ViewBank(path: root + "/bank0").keptShare)
    }

    /// Any order, any mixture of shards, more than is kept in memory at a time.
    func testAnswersFollowTheKeys() throws {
        let request = try request(draws: 9, rank: 4)
        let bank = try XCTUnwrap(open("bank", request))
        let keys = (0..<64).flatMap { image in (0..<9).map { ViewKey(index: 63 - image, draw: $0) } }
        let all = try bank.answers(for: keys) { [] }
        XCTAssertEqual(all.globals.count, keys.count * Self.width)
        for place in stride(from: 0, to: keys.count, by: 37) {
            let one = try bank.answers(for: [keys[place]]) { [] }
            XCTAssertEqual(one.globals, Array(all.globals[place * Self.width..<(place + 1) * Self.width]))
            XCTAssertEqual(one.cells, Array(all.cells[place * 64..<(place + 1) * 64]))
        }
        // Draws of an image differ, and so do images.
        XCTAssertNotEqual(all.globals[0..<Self.width], all.globals[Self.width..<2 * Self.width])
        XCTAssertEqual(
            message { _ = try bank.answers(for: [ViewKey(index: 64, draw: 0)]) { [] } },
            "ROOT/bank: has no draw 0 of an image 64")
        XCTAssertEqual(
            message { _ = try bank.answers(for: [ViewKey(index: 0, draw: 9)]) { [] } },
            "ROOT/bank: has no draw 9 of an image 0")
    }

    func testBanksWithoutCells() throws {
        let bank = try XCTUnwrap(open("bank", request(cells: false)))
        XCTAssertEqual([bank.rank, bank.identity.layout.viewBytes], [0, Self.width + 4])
        XCTAssertEqual(try bank.answers(for: [ViewKey(index: 3, draw: 1)]) { [] }.cells, [])
        XCTAssertEqual(
            message { _ = try self.open("bank", self.request()) },
            "ROOT/bank: keeps no cells, not whole cells (distill.rank)")
        // And the other way round: cells that nobody wants are not read.
        _ = try open("cells", request(rank: 4))
        let part = try XCTUnwrap(open("cells", request(rank: 4, cells: false)))
        XCTAssertEqual(try part.answers(for: [ViewKey(index: 3, draw: 1)]) { [] }.cells, [])
    }

    // MARK: Bytes

    func testBytesDependOnNeitherThreadsNorInterruptions() throws {
        let request = try request(draws: 10, rank: 8)
        XCTAssertEqual(try fill("straight", request), .finished)
        let straight = try files("straight")
        XCTAssertEqual(straight.count, 10)  // bank.json, basis, 7 shards, .lock
        XCTAssertEqual(try fill("threads", request, options(threads: 3)), .finished)
        XCTAssertEqual(try files("threads"), straight)
        // Before the basis, within it, within shards.
        var runs = 0
        for stopAfter in [0, 20, 70] + [Int](repeating: 45, count: 12) {
            runs += 1
            if try fill("stopped", request, options(threads: 1 + runs % 3), stopAfter: stopAfter) == .finished { break }
            XCTAssertTrue(try files("stopped").allSatisfy { straight[$0.key] == $0.value })
            let text = message { _ = try ViewBank(path: self.root + "/stopped") }
            XCTAssertTrue(text.contains("is not complete: it has"), text)
        }
        XCTAssertGreaterThan(runs, 5)
        XCTAssertEqual(try files("stopped"), straight)
        // Nothing to do is no harm, and neither is a shard that somebody removed.
        try FileManager.default.removeItem(atPath: root + "/stopped/shard-00003.safetensors")
        XCTAssertEqual(try fill("stopped", request), .finished)
        XCTAssertEqual(try fill("stopped", request), .finished)
        XCTAssertEqual(try files("stopped"), straight)
    }

    func testFullDisk() throws {
        let request = try request()
        try fill("straight", request)
        final class Disk: @unchecked Sendable { var left = 40_000 }
        let disk = Disk()
        var options = options()
        let live = SystemCalls.live
        options.calls.write = { descriptor, bytes in
            guard disk.left >= bytes.count else { return -Int(ENOSPC) }
            disk.left -= bytes.count
            return live.write(descriptor, bytes)
        }
        let full = message { try self.fill("full", request, options) }
        XCTAssertTrue(
            full.hasPrefix("ROOT/full/shard-0000") && full.hasSuffix("cannot write: No space left on device"), full)
        let straight = try files("straight")
        XCTAssertTrue(try files("full").allSatisfy { straight[$0.key] == $0.value }, "nothing half written")
        XCTAssertEqual(try fill("full", request), .finished)
        XCTAssertEqual(try files("full"), straight)
    }

    // MARK: Bad input

    func testDamageIsFoundAndNamed() throws {
        let request = try request(rank: 8)
        try fill("bank", request)
        let shard = root + "/bank/shard-00002.safetensors", basis = root + "/bank/basis.safetensors"
        func spoilt(_ path: String, _ change: (inout [UInt8]) -> Void) throws -> String {
            let whole = try readFile(at: path)
            defer { try? Data(whole).write(to: URL(fileURLWithPath: path)) }
            var bytes = whole
            change(&bytes)
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            return message { _ = try ViewBank(path: self.root + "/bank") }
        }
        let size = try readFile(at: shard).count
        for bit in [8 * (size - 1), 8 * (size / 2) + 5, 8 * (size - 2_000) + 1] {
            let text = try spoilt(shard) { $0[bit / 8] ^= UInt8(1 << (bit % 8)) }
            XCTAssertTrue(text.hasPrefix("ROOT/bank/shard-00002.safetensors: damaged: the data have checksum"), text)
        }
        XCTAssertTrue(
            try spoilt(shard) { $0.removeLast(100) }.hasPrefix("ROOT/bank/shard-00002.safetensors: truncated"))
        XCTAssertTrue(try spoilt(shard) { $0 = [] }.hasPrefix("ROOT/bank/shard-00002.safetensors: not a safetensors"))
        XCTAssertTrue(try spoilt(basis) { $0[$0.count - 9] ^= 1 }.hasPrefix("ROOT/bank/basis.safetensors: damaged"))
        let description = root + "/bank/bank.json"
        XCTAssertTrue(
            try spoilt(description) { $0.removeLast(20) }.hasPrefix("ROOT/bank/bank.json: describes no view bank"))
        let later = try spoilt(description) {
            $0 = Array(String(decoding: $0, as: UTF8.self)
                .replacingOccurrences(of: "\"version\": 1", with: "\"version\": 2").utf8)
        }
        XCTAssertEqual(later, "ROOT/bank/bank.json: describes no view bank: version 2, this program reads 1")
        let huge = try spoilt(description) {
            $0 = Array(String(decoding: $0, as: UTF8.self)
                .replacingOccurrences(of: "\"draws\": 3", with: "\"draws\": 300000000").utf8)
        }
        XCTAssertTrue(huge.contains("views: 'draws' is 300000000, expected 1 to 4096"), huge)
        // Another shard's content, whole in itself.
        let other = try spoilt(shard) { $0 = (try? readFile(at: root + "/bank/shard-00001.safetensors")) ?? [] }
        XCTAssertEqual(other, "ROOT/bank/shard-00002.safetensors: is shard 1 of its bank under another name")
        // And another bank's.
        try fill("other", self.request(rank: 8, seed: 6))
        let foreign = try spoilt(shard) { $0 = (try? readFile(at: root + "/other/shard-00002.safetensors")) ?? [] }
        XCTAssertTrue(foreign.contains("belongs to a bank of another teacher, data set or recipe"), foreign)
        // The writer finds damage before it goes on.
        try FileManager.default.removeItem(atPath: root + "/bank/shard-00004.safetensors")
        var bytes = try readFile(at: shard)
        bytes[bytes.count - 5] ^= 4
        try Data(bytes).write(to: URL(fileURLWithPath: shard))
        XCTAssertTrue(
            message { try self.fill("bank", request) }.hasPrefix("ROOT/bank/shard-00002.safetensors: damaged"))
        XCTAssertFalse(exists("bank/shard-00004.safetensors"))
    }

    func testAnotherBankIsRefusedInOneLine() throws {
        try writeBase("other.safetensors", imageSize: 16, seed: 78)
        try Self.writeIDX(prefix: root + "/shaded", count: 64, shade: 9)
        try Self.writeIDX(prefix: root + "/fewer", count: 50)
        try fill("bank", request(rank: 8))
        let before = try files("bank")
        let hash = try ModelFile(path: root + "/teacher.safetensors").fingerprint
        let cases: [(ViewBankRequest, String)] = [
            (try request(rank: 8, teacher: "other.safetensors"),
             "is a bank of another teacher: teacher.safetensors, hash \(hash)"),
            (try request(rank: 8, precision: .int8), "its teacher ran in float32, not int8 (--teacher-precision)"),
            (try request(rank: 8, data: "fewer"), "is a bank of 64 images, "),
            (try request(rank: 8, data: "shaded"), "is a bank of other images than those of "),
            (try request(draws: 4, rank: 8), "has 3 draws an image, distill.draws is 4"),
            (try request(rank: 9), "keeps cells of rank 8, not cells of rank 9 (distill.rank)"),
            (try request(rank: 0), "keeps cells of rank 8, not whole cells (distill.rank)"),
            (try request(rank: 8, seed: 6), "its views were drawn with schedule.seed \"5\", not \"6\""),
            (
                try request(rank: 8) { $0.flipProbability = 0.25 },
                "were drawn with data.flip_probability 0.5, not 0.25"
            ),
            (
                try request(rank: 8) { $0.background = .white },
                "were drawn with data.background absent, not \"white\""
            ),
            (
                try request(rank: 8) { $0.globalCropsScale = [0.2, 1] },
                "data.global_crops_scale [0.3,1.0], not [0.2,1.0]"
            ),
        ]
        for (request, text) in cases {
            for found in [message { _ = try self.open("bank", request) }, message { try self.fill("bank", request) }] {
                XCTAssertTrue(found.hasPrefix("ROOT/bank: ") && found.contains(text), "\(found) does not say \(text)")
                XCTAssertFalse(found.contains("\n"))
            }
        }
        XCTAssertEqual(try files("bank"), before)
        // What decides nothing about a first global view is free.
        _ = try XCTUnwrap(open("bank", request(rank: 8) {
            ($0.localCrops, $0.solarizeProbability, $0.mean) = (4, 0.5, [0, 0, 0])
        }))
        XCTAssertEqual(
            message { try self.fill("bank", self.request(rank: 8), self.options(resume: false)) },
            "ROOT/bank: holds a view bank (bank.json); give --resume to go on with it, or another folder")
        XCTAssertEqual(
            message { _ = try ViewBank(path: self.root) }, "ROOT: is no view bank: there is no bank.json in it")
        XCTAssertEqual(
            message { try self.fill("never", self.request(draws: 5000)) },
            "distill.draws is 5000; a bank keeps 1 to 4096 draws an image")
        XCTAssertFalse(exists("never"))
    }

    func testOneWriterAtATime() throws {
        let first = try ViewBankWriter(path: root + "/bank", request: request(), options: options())
        XCTAssertEqual(
            message { try self.fill("bank", self.request()) },
            "ROOT/bank: another writer of this bank is running in this folder")
        XCTAssertEqual(try first.run(shouldStop: { false }, progress: { _, _ in }, notice: { _ in }), .finished)
        // Readers need no lock, and do not take one.
        let bank = try ViewBank(path: root + "/bank"), second = try ViewBank(path: root + "/bank")
        let key = [ViewKey(index: 7, draw: 2)]
        XCTAssertEqual(try bank.answers(for: key) { [] }.globals, try second.answers(for: key) { [] }.globals)
    }

    func testImagesThatCannotBeReadAreAbsentAndReplaced() throws {
        try FileManager.default.createDirectory(atPath: root + "/folder", withIntermediateDirectories: true)
        let pictures = try Dataset(path: root + "/train")
        for index in 0..<24 {
            var bytes = try ImageEncoder.png(pictures.image(index), name: "test")
            if index % 6 == 4 { bytes.removeLast(bytes.count / 2) }
            let digits = index < 10 ? "0\(index)" : "\(index)"
            try Data(bytes).write(to: URL(fileURLWithPath: "\(root)/folder/\(digits).png"))
        }
        let recipe = try distilling("schedule.batch_size=8")
        let request = ViewBankRequest(
            recipe: recipe, teacher: try ModelFile(path: root + "/teacher.safetensors"), precision: .int8,
            dataset: try Dataset(path: root + "/folder"))
        var said: [String] = []
        XCTAssertEqual(try fill("bank", request, options(imagesPerShard: 5)) { said.append($0) }, .finished)
        XCTAssertEqual(said.count, 4)
        let bank = try ViewBank(path: root + "/bank")
        XCTAssertEqual(bank.absentCount, 4)
        XCTAssertEqual((0..<24).filter { bank.absence(of: $0) != nil }, [4, 10, 16, 22])
        XCTAssertTrue(try XCTUnwrap(bank.absence(of: 4)).contains("folder/04.png"), bank.absence(of: 4) ?? "")
        let text = message { _ = try bank.answers(for: [ViewKey(index: 10, draw: 0)]) { [] } }
        XCTAssertTrue(text.hasPrefix("ROOT/bank: has no answers about image 10: "), text)

        // A student passes over them, even where it could read them now.
        for index in [4, 10, 16, 22] {
            let digits = index < 10 ? "0\(index)" : "\(index)"
            let bytes = try ImageEncoder.png(pictures.image(index), name: "test")
            try Data(bytes).write(to: URL(fileURLWithPath: "\(root)/folder/\(digits).png"))
        }
        let summary = try student(recipe, bank, "run", data: "folder").runQuietly()
        XCTAssertEqual(summary.ending, .finished)
        XCTAssertEqual(summary.unreadable.count, 4)
    }

    func testNothingThatCanBeRead() throws {
        try FileManager.default.createDirectory(atPath: root + "/folder", withIntermediateDirectories: true)
        for index in 0..<12 {
            try Data([0x89, 0x50, 0x4E, 0x47]).write(to: URL(fileURLWithPath: "\(root)/folder/\(index).png"))
        }
        XCTAssertEqual(
            message { try self.fill("bank", self.request(data: "folder")) },
            "ROOT/folder: no image of the first shard can be read, nor any of 12 others")
        XCTAssertFalse(exists("bank/shard-00000.safetensors"))
    }

    func testMemoryLimit() throws {
        var options = options()
        options.memoryLimit = 1 << 20
        let text = message { try self.fill("bank", self.request(), options) }
        let least = try XCTUnwrap(text.firstMatch(of: /filling this bank needs at least (\d+)M/)?.1, text)
        XCTAssertFalse(exists("bank/bank.json"))
        // What is resident may have grown meanwhile.
        options.memoryLimit = ((Int(least) ?? 0) + 64) << 20
        XCTAssertEqual(try fill("bank", request(), options), .finished)
        // Answers do not depend on it.
        try fill("free", request())
        let (limited, free) = (try files("bank"), try files("free"))
        XCTAssertEqual(limited["shard-00001.safetensors"], free["shard-00001.safetensors"])
    }

    // MARK: A student

    private func distilling(_ overrides: String...) throws -> Recipe {
        try Recipe.parse("""
            model:      {architecture: vit_nano, image_size: 12, patch_size: 4}
            objective:  {name: distill}
            distill:    {draws: 2, rank: 8, anchors: 32}
            schedule:   {epochs: 2, batch_size: 16}
            evaluation: {knn_every_epochs: 0}
            checkpoint: {every_steps: 3}
            """, file: "distill.yaml", architectures: ModelArchitecture.names, overrides: overrides)
    }

    private func student(
        _ recipe: Recipe, _ bank: ViewBank, _ run: String, resume: Bool = false, maxSteps: Int? = nil,
        data: String = "train"
    ) throws -> Trainer {
        var options = PretrainingOptions()
        options.threads = Int(hssl_get_threads())
        (options.resume, options.maxSteps) = (resume, maxSteps)
        let teacher = try FrozenTeacher(
            file: ModelFile(path: root + "/teacher.safetensors"), precision: .int8, threads: 1, wantsCells: true,
            source: bank)
        return try Trainer(
            recipe: recipe, dataset: Dataset(path: "\(root)/\(data)"), output: "\(root)/\(run)", options: options,
            teacher: teacher)
    }

    func testAStudentResumesBitForBit() throws {
        let recipe = try distilling()
        let request = ViewBankRequest(
            recipe: recipe, teacher: try ModelFile(path: root + "/teacher.safetensors"), precision: .int8,
            dataset: try Dataset(path: root + "/train"))
        let bank = try XCTUnwrap(open("bank", request))
        try student(recipe, bank, "straight").runQuietly()
        try student(recipe, bank, "stopped", maxSteps: 3).runQuietly()
        // Another reader, as another process would have.
        try student(recipe, ViewBank(path: root + "/bank"), "stopped", resume: true).runQuietly()
        for file in ["checkpoint.safetensors", "model.safetensors"] {
            XCTAssertEqual(try files("straight")[file], try files("stopped")[file], file)
        }
    }
}
