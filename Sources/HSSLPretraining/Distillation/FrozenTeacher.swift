import HSSLFormats
import HSSLGraph
import HSSLModels
import HSSLRuntime

/// The teacher of a distillation: a model that never changes, who it is, and where its answers come from.
package struct FrozenTeacher: Sendable {
    /// Its file; a session is made of it where it runs.
    package let file: ModelFile
    /// For checkpoints and the models of its students.
    package let identity: ModelProvenance.Teacher
    /// In which it runs.
    package let precision: Precision
    package let source: any TeacherSource

    /// - Parameter source: answers of this file at this precision; nil: it runs now.
    /// - Throws: errors naming the file: no model, or an int8 one that is to run at another precision.
    package init(
        file: ModelFile, precision: Precision, threads: Int, wantsCells: Bool, source: (any TeacherSource)? = nil
    ) throws {
        (self.file, self.precision) = (file, precision)
        identity = Self.identity(of: file, precision: precision)
        self.source = try source ?? RunningTeacher(
            model: Model(file: file, precision: precision), threads: threads, wantsCells: wantsCells)
    }

    /// Opens a teacher's file.
    ///
    /// - Parameter precision: in which it is to run; nil: int8, whatever the file has.
    /// - Throws: errors naming the file.
    package static func open(_ path: String, precision: Precision?) throws -> (file: ModelFile, precision: Precision) {
        let file = try ModelFile(path: path)
        let wanted = precision ?? .int8
        if file.precision == .int8, wanted != .int8 {
            throw FileError(
                path: path, reason: "its weights are int8 codes: the teacher cannot run in \(wanted.rawValue)")
        }
        return (file, wanted)
    }

    private static func identity(of file: ModelFile, precision: Precision) -> ModelProvenance.Teacher {
        .init(
            file: file.path.split(separator: "/").last.map(String.init) ?? file.path, hash: file.fingerprint,
            license: file.provenance.license, precision: precision.rawValue)
    }

    package var shape: TeacherShape { TeacherShape(width: source.width, rank: source.rank, grid: source.grid) }

    /// How a source that runs the teacher takes the views of a recipe; others take none.
    package func viewing(_ recipe: Recipe) -> TeacherViewing {
        TeacherViewing(
            draws: source.draws,
            augmentation: source.draws == nil ? Self.augmentation(recipe.data, for: file) : nil,
            absence: { [source] in source.absence(of: $0) })
    }

    /// A recipe's views at the size and with the mean and deviation of a teacher.
    package static func augmentation(_ data: Recipe.Data, for teacher: ModelFile) -> MultiCropAugmentation {
        var data = data
        data.mean = teacher.preprocessing.mean.map { Double($0) }
        data.std = teacher.preprocessing.std.map { Double($0) }
        return MultiCropAugmentation(data, imageSize: teacher.architecture.imageSize)
    }

    /// The model itself, for what is no view: k-NN.
    func withSession<Result>(threads: Int, _ body: (Session) throws -> Result) throws -> Result {
        if let running = source as? RunningTeacher { return try running.withSession(body) }
        return try body(Session(model: Model(file: file, precision: precision), threads: threads))
    }
}

/// Which views of an image a teacher is asked about, and how it takes them.
package struct TeacherViewing: Sendable {
    /// Draws an image; nil: another one every epoch.
    let draws: Int?
    /// Nil: it has seen them.
    let augmentation: MultiCropAugmentation?
    /// Why it has no answers about an image; nil: it has.
    let absence: @Sendable (Int) -> String?
}

extension ModelProvenance.Teacher {
    /// For people: file, licence, hash.
    package var summary: String {
        "\(file) (\(precision), licence \(license.isEmpty ? "not stated" : license), hash \(hash))"
    }
}

extension Checkpoint.Position {
    /// - Throws: where a run would go on with other targets than it began with.
    func checkTeacher(_ now: FrozenTeacher?, path: String) throws {
        guard let teacher else {
            guard now == nil else {
                throw PretrainingError("\(path): is no distillation's; hssl pretrain goes on with it")
            }
            return
        }
        guard let now else { return }
        let mine = now.identity
        guard teacher.hash == mine.hash else {
            throw PretrainingError(
                "\(path): was distilled from another teacher: \(teacher.file), hash \(teacher.hash); "
                    + "\(mine.file) has \(mine.hash)")
        }
        guard teacher.precision == mine.precision else {
            throw PretrainingError(
                "\(path): its teacher ran in \(teacher.precision), not \(mine.precision) (--teacher-precision)")
        }
        guard draws == now.source.draws else {
            func words(_ draws: Int?) -> String { draws.map { "a bank of \($0) draws" } ?? "a teacher that runs" }
            throw PretrainingError("\(path): learnt from \(words(draws)), not \(words(now.source.draws)) (--bank)")
        }
    }
}
