import HSSLModels

/// What a teacher says of some views.
package struct TeacherAnswers: Sendable {
    /// [views, width]: the teacher's global feature (`Base.global`) as it is, not normalised.
    package var globals: [Float]
    /// [views, grid.count, rank]: its grid cells after the final norm, in coordinates of an orthonormal basis: inner
    /// products of two cells are the teacher's own (up to what the rank leaves out). Empty where nobody asked for
    /// cells.
    package var cells: [Float]
}

/// A view of a data set's image: a counter-based draw.
package struct ViewKey: Hashable, Sendable {
    /// The image's place in the data set.
    package var index: Int
    /// The draw: 0 ..< K with a bank; the epoch without.
    package var draw: Int
}

/// Where a student's targets come from: a teacher that runs now, or a bank of its answers.
package protocol TeacherSource: AnyObject, Sendable {
    /// Channels of a global feature.
    var width: Int { get }
    /// Coordinates of a cell.
    var rank: Int { get }
    /// The teacher's grid.
    var grid: Grid { get }
    /// Draws an image; nil: any number.
    var draws: Int? { get }
    /// Bytes that answering takes in memory beyond what is resident before the first question.
    var residentBytes: Int { get }
    /// Why it has no answers about an image, which then gives way to another; nil: it has.
    func absence(of index: Int) -> String?
    /// Answers for some views, in their order. May be called from any thread, one call at a time per caller.
    func answers(for keys: [ViewKey], views: TeacherViews) throws -> TeacherAnswers
}

/// Views as the teacher takes them, [views, 3, side, side] normalised; only a source that runs the teacher asks for
/// them.
package typealias TeacherViews = () throws -> [Float]

extension TeacherSource {
    package var residentBytes: Int { 0 }
    package func absence(of index: Int) -> String? { nil }
}
